package match_test

import (
	"testing"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/event"
)

func TestRouteField(t *testing.T) {
	field, err := match.Lookup("by", "route")
	if err != nil {
		t.Fatal(err)
	}
	for want, e := range map[string]event.Event{
		"GET /users/{id}/orders/{date}": {Protocol: event.HTTP1, Method: "GET", Path: "/users/123/orders/2024-05-17"},
		"shop.v1.Cart/Add1234":          {Protocol: event.GRPC, Method: "POST", Path: "/shop.v1.Cart/Add1234"},
		"OPTIONS *":                     {Protocol: event.HTTP1, Method: "OPTIONS", Path: "*"},
		"CONNECT {authority}":           {Protocol: event.HTTP1, Method: "CONNECT", Path: "example.com:443"},
		"GET":                           {Protocol: event.HTTP2, Method: "GET"},
		"tcp":                           {Protocol: event.TCP},
	} {
		if got := string(field.Append(nil, &event.Header{}, &e)); got != want {
			t.Errorf("%s %s is %q, want %q", e.Method, e.Path, got, want)
		}
	}
}
