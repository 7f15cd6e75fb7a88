package app

import (
	_ "embed"
	"encoding/json"
	"net/http"

	pb "github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

//go:embed page.html
var page []byte

// Web is the front end: a page to vote on, and the REST interface under /api/
// behind it, which asks the gRPC services. Safe for concurrent use.
type Web struct {
	emoji  pb.EmojiServiceClient
	voting pb.VotingServiceClient
	mux    *http.ServeMux
}

// NewWeb returns the front end over connections to the two services.
func NewWeb(emoji, voting grpc.ClientConnInterface) *Web {
	w := &Web{
		emoji:  pb.NewEmojiServiceClient(emoji),
		voting: pb.NewVotingServiceClient(voting),
		mux:    http.NewServeMux(),
	}
	w.mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = rw.Write(page) // the client went away: nobody to tell
	})
	w.mux.HandleFunc("GET /api/list", w.list)
	w.mux.HandleFunc("GET /api/vote", w.vote)
	w.mux.HandleFunc("GET /api/leaderboard", w.leaderboard)
	return w
}

// ServeHTTP implements http.Handler.
func (w *Web) ServeHTTP(rw http.ResponseWriter, r *http.Request) { w.mux.ServeHTTP(rw, r) }

func (w *Web) list(rw http.ResponseWriter, r *http.Request) {
	resp, err := w.emoji.ListAll(r.Context(), &pb.ListAllRequest{})
	answer(rw, resp.GetEmoji(), err)
}

func (w *Web) leaderboard(rw http.ResponseWriter, r *http.Request) {
	resp, err := w.voting.Results(r.Context(), &pb.ResultsRequest{})
	answer(rw, resp.GetResults(), err)
}

// vote asks emoji whether there is such a choice, and has voting count it.
func (w *Web) vote(rw http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("choice")
	found, err := w.emoji.FindByShortcode(r.Context(), &pb.FindByShortcodeRequest{Shortcode: code})
	if err != nil {
		answer(rw, nil, err)
		return
	}
	for _, c := range catalog() {
		if c.shortcode == found.GetEmoji().GetShortcode() {
			resp, err := c.vote(w.voting, r.Context(), &pb.VoteRequest{})
			answer(rw, resp, err)
			return
		}
	}
	answer(rw, nil, status.Errorf(codes.Internal, "emoji knows %q, web does not", code))
}

// answer writes v as JSON, or err as the HTTP status that fits it.
func answer(rw http.ResponseWriter, v any, err error) {
	if err != nil {
		code := http.StatusInternalServerError
		if status.Code(err) == codes.NotFound {
			code = http.StatusNotFound
		}
		http.Error(rw, status.Convert(err).Message(), code)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(v) // the client went away: nobody to tell
}
