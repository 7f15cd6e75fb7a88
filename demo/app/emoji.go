package app

import (
	"context"

	pb "github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Emoji serves the catalogue of emoji over gRPC. Its zero value is ready and
// safe for concurrent use.
type Emoji struct {
	pb.UnimplementedEmojiServiceServer
}

// ListAll returns every emoji.
func (*Emoji) ListAll(context.Context, *pb.ListAllRequest) (*pb.ListAllResponse, error) {
	resp := &pb.ListAllResponse{}
	for _, c := range catalog() {
		resp.Emoji = append(resp.Emoji, &pb.Emoji{Shortcode: c.shortcode, Unicode: c.unicode})
	}
	return resp, nil
}

// FindByShortcode returns one emoji, or NotFound.
func (*Emoji) FindByShortcode(_ context.Context, req *pb.FindByShortcodeRequest) (*pb.FindByShortcodeResponse, error) {
	for _, c := range catalog() {
		if c.shortcode == req.GetShortcode() {
			return &pb.FindByShortcodeResponse{Emoji: &pb.Emoji{Shortcode: c.shortcode, Unicode: c.unicode}}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no emoji has the shortcode %q", req.GetShortcode())
}
