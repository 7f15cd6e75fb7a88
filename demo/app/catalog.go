// Package app is the sample application of `weir demo`, modelled on emojivoto:
// a web front end with a REST interface ([Web]), two gRPC services ([Emoji],
// [Voting]) and a bot that votes ([Bot]). It knows nothing of the mesh. One
// emoji's vote always fails, which is there to be found.
package app

import (
	"context"

	pb "github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc"
)

// A choice is one emoji and the gRPC method that votes for it.
type choice struct {
	shortcode string
	unicode   string
	vote      func(pb.VotingServiceClient, context.Context, *pb.VoteRequest, ...grpc.CallOption) (*pb.VoteResponse, error)
}

// failing is the shortcode whose vote always fails.
const failing = ":doughnut:"

// catalog lists every emoji, in the order of the page.
func catalog() []choice {
	type c = pb.VotingServiceClient
	return []choice{
		{":balloon:", "🎈", c.VoteBalloon},
		{":beaver:", "🦫", c.VoteBeaver},
		{":boat:", "⛵", c.VoteBoat},
		{":cactus:", "🌵", c.VoteCactus},
		{failing, "🍩", c.VoteDoughnut},
		{":fish:", "🐟", c.VoteFish},
		{":otter:", "🦦", c.VoteOtter},
		{":river:", "🏞", c.VoteRiver},
		{":rocket:", "🚀", c.VoteRocket},
		{":wave:", "🌊", c.VoteWave},
	}
}
