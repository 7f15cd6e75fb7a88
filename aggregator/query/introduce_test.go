package query_test

import (
	"slices"
	"testing"

	"github.com/weirmesh/weir/aggregator/query"
)

func TestIntroduce(t *testing.T) {
	sel := func(name string) query.Selector { return query.Selector{Namespace: "n", Kind: "deploy", Name: name} }
	edge := func(from, to, client, server, security, seen string) query.Edge {
		return query.Edge{Source: sel(from), Destination: sel(to), SourceID: client, DestID: server, Security: security, SeenBy: seen}
	}
	got := query.Introduce([]query.Edge{
		edge("bot", "web", "", "id-web", "mutual", "client"),
		edge("bot", "web", "", "", "none", "client"),
		edge("bot", "web", "id-bot-2", "", "mutual", query.Witness),
		edge("bot", "web", "id-bot-1", "", "mutual", query.Witness),
		edge("bot", "web", "id-bot-2", "", "mutual", query.Witness),
		edge("web", "api", "", "id-api", "mutual", "client"),
		edge("outside", "web", "", "", "none", "server"),
		edge("gone", "web", "id-gone", "", "mutual", query.Witness),
	})
	want := []query.Edge{
		edge("bot", "web", "id-bot-1,id-bot-2", "id-web", "mutual", "client"),
		edge("bot", "web", "", "", "none", "client"),
		edge("web", "api", "", "id-api", "mutual", "client"),
		edge("outside", "web", "", "", "none", "server"),
	}
	if !slices.EqualFunc(got, want, func(a, b query.Edge) bool {
		return a.Source == b.Source && a.Destination == b.Destination && a.SourceID == b.SourceID && a.DestID == b.DestID && a.Security == b.Security && a.SeenBy == b.SeenBy
	}) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
