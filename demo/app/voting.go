package app

import (
	"cmp"
	"context"
	"slices"
	"sync"

	pb "github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Voting counts votes over gRPC, in memory. Its zero value is ready and safe
// for concurrent use.
type Voting struct {
	pb.UnimplementedVotingServiceServer

	mu    sync.Mutex
	votes map[string]uint64 // by shortcode
}

func (v *Voting) vote(shortcode string) (*pb.VoteResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.votes == nil {
		v.votes = map[string]uint64{}
	}
	v.votes[shortcode]++
	return &pb.VoteResponse{Votes: v.votes[shortcode]}, nil
}

// VoteBalloon counts a vote for it.
func (v *Voting) VoteBalloon(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":balloon:")
}

// VoteBeaver counts a vote for it.
func (v *Voting) VoteBeaver(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":beaver:")
}

// VoteBoat counts a vote for it.
func (v *Voting) VoteBoat(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":boat:")
}

// VoteCactus counts a vote for it.
func (v *Voting) VoteCactus(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":cactus:")
}

// VoteDoughnut always fails, with Unknown: the fault that the demo is about.
func (v *Voting) VoteDoughnut(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return nil, status.Error(codes.Unknown, "the doughnut has been eaten")
}

// VoteFish counts a vote for it.
func (v *Voting) VoteFish(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":fish:")
}

// VoteOtter counts a vote for it.
func (v *Voting) VoteOtter(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":otter:")
}

// VoteRiver counts a vote for it.
func (v *Voting) VoteRiver(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":river:")
}

// VoteRocket counts a vote for it.
func (v *Voting) VoteRocket(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":rocket:")
}

// VoteWave counts a vote for it.
func (v *Voting) VoteWave(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error) {
	return v.vote(":wave:")
}

// Results returns the votes so far, most first.
func (v *Voting) Results(context.Context, *pb.ResultsRequest) (*pb.ResultsResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	resp := &pb.ResultsResponse{}
	for code, n := range v.votes {
		resp.Results = append(resp.Results, &pb.Result{Shortcode: code, Votes: n})
	}
	slices.SortFunc(resp.Results, func(a, b *pb.Result) int {
		return cmp.Or(-cmp.Compare(a.GetVotes(), b.GetVotes()), cmp.Compare(a.GetShortcode(), b.GetShortcode()))
	})
	return resp, nil
}
