package control_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirmesh/weir/control"
)

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		name string
		into control.Checker
		data string
		want string
	}{
		{"good request", new(control.ResolveRequest), `{"addr":"10.0.0.1:80","later":1}`, ""},
		{"no address", new(control.ResolveRequest), `{}`, "without an address"},
		{"no port", new(control.ResolveRequest), `{"addr":"10.0.0.1:0"}`, "without an address"},
		{"no JSON", new(control.ResolveRequest), `{`, "cannot read the message"},
		{"too long", new(control.ResolveRequest), strings.Repeat(" ", control.MaxMessage+1), "at most"},
		{"long zone", new(control.ResolveRequest), `{"addr":"10.0.0.1:80","zone":"` + strings.Repeat("z", 300) + `"}`, "too long"},
		{"no token", new(control.CertifyRequest), `{"csr":"AAAA"}`, "token"},
		{"no request", new(control.CertifyRequest), `{"token":"t"}`, "certificate request"},
		{"no chain", new(control.CertifyReply), `{"anchors":"a"}`, "chain"},
		{"no anchors", new(control.CertifyReply), `{"chain":"a"}`, "anchors"},
		{"refused", new(control.CertifyReply), `{"error":{"code":"denied","message":"no"}}`, ""},
		{"endpoint without address", new(control.Destination), `{"known":true,"endpoints":[{}]}`, "no address"},
		{"long pod", new(control.Destination), `{"known":true,"endpoints":[{"addr":"10.0.0.1:80","pod":"` + strings.Repeat("p", 300) + `"}]}`, "too long"},
		{"unknown address", new(control.Destination), `{"epoch":1}`, ""},
	} {
		err := control.Decode([]byte(tt.data), tt.into)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

func TestDestinationSurvivesJSON(t *testing.T) {
	d := control.Destination{Namespace: "shop", Service: "cart", Port: 80, Addrs: []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:80")},
		Epoch: 7, Version: 3, Known: true, Protocol: "grpc",
		Endpoints: []control.Endpoint{{Addr: netip.MustParseAddrPort("10.1.2.3:8080"), Namespace: "shop", Kind: "deploy", Name: "cart", Pod: "cart-1",
			Identity: control.SPIFFE("cluster.local", "shop", "default"), Terminating: true}}}
	b, err := json.Marshal(&d)
	if err != nil {
		t.Fatal(err)
	}
	var got control.Destination
	if err := control.Decode(b, &got); err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(&got)
	if string(again) != string(b) {
		t.Errorf("got %s, want %s", again, b)
	}
	if want := "spiffe://cluster.local/ns/shop/sa/default"; got.Endpoints[0].Identity != want {
		t.Errorf("identity %s, want %s", got.Endpoints[0].Identity, want)
	}
}

func TestNewer(t *testing.T) {
	older, newer := &control.Destination{Epoch: 1, Version: 9}, &control.Destination{Epoch: 2, Version: 1}
	if !newer.Newer(older) || older.Newer(newer) || older.Newer(older) {
		t.Error("a later controller's word does not win")
	}
}
