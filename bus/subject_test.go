package bus_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
)

func TestSubjects(t *testing.T) {
	w := event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: "web"}
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got subject %q, want %q", got, want)
		}
	}
	f(bus.EventsSubject(w), "weir.v1.events.local.emojivoto.deploy.web")
	f(bus.TapSubject(w), "weir.v1.tap.local.emojivoto.deploy.web")
	f(bus.StatsSubject(w), "weir.v1.stats.local.emojivoto.deploy.web")
	f(bus.TappedSubject(w), "weir.v1.tapped.local.emojivoto.deploy.web")
	f(bus.TapFilter(w), "weir.v1.tap.local.emojivoto.deploy.web")
	f(bus.TapFilter(event.Workload{Namespace: "a.b"}), "weir.v1.tap.*.a_b.*.*")
	f(bus.StatsFilter(event.Workload{}), "weir.v1.stats.*.*.*.*")
	f(bus.PartitionFilter(3), "weir.v1.part.3.>")
	f(bus.RollupSubject(15, 0), "weir.v1.rollups.15")
	f(bus.RollupSubject(15, 1), "weir.v1.rollups.15.10s")
	f(bus.RollupSubject(15, 2), "weir.v1.rollups.15.1m")
	f(bus.RPCSubject("aggregator", "stat"), "weir.v1.rpc.aggregator.stat")
	f(bus.MemberSubject("agg.0"), "$KV.WEIR_MEMBERS.agg_0")
}

func TestEndpointsSubject(t *testing.T) {
	if got, want := bus.EndpointsSubject("shop", "cart.v2"), "weir.v1.endpoints.shop.cart_v2"; got != want {
		t.Errorf("subject %s, want %s", got, want)
	}
	if got, want := bus.EndpointsSubject("shop", ""), "weir.v1.endpoints.shop.="; got != want {
		t.Errorf("subject %s, want %s", got, want)
	}
}

func TestToken(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		got := bus.Token(name)
		if got != want {
			t.Errorf("Token(%q) is %q, want %q", name, got, want)
		}
		back, err := bus.ParseToken(got)
		if err != nil || back != name {
			t.Errorf("ParseToken(%q) is %q, %v, want %q", got, back, err, name)
		}
	}
	f("web", "web")
	f("Web-1", "Web-1")
	f("web.v2", "web_v2")
	f("", "=")
	f("_", "=5F")
	f("=", "=3D")
	f("*", "=2A")
	f(">", "=3E")
	f("a b", "a=20b")
	f("a\r\nPUB x 0\r\n", "a=0D=0APUB=20x=200=0D=0A")
	f("$SYS", "=24SYS")
	f("é", "=C3=A9")
	f("\x00\xff", "=00=FF")
	f(strings.Repeat("a", bus.MaxToken), strings.Repeat("a", bus.MaxToken))
}

func TestTokenOverLong(t *testing.T) {
	seen := map[string]string{}
	for _, unit := range []string{"a", ".", "*", "a*", "ab*", "="} {
		for n := range 3 {
			name := strings.Repeat(unit, 300+n)
			token := bus.Token(name)
			if len(token) > bus.MaxToken {
				t.Errorf("token of %d × %q has %d bytes", 300+n, unit, len(token))
			}
			if other, ok := seen[token]; ok {
				t.Errorf("names %.20q… and %.20q… share the token %q", name, other, token)
			}
			seen[token] = name
			if back, err := bus.ParseToken(token); err != nil || !strings.Contains(back, "=-") {
				t.Errorf("ParseToken(%q) is %q, %v, want a cut name", token, back, err)
			}
		}
	}
}

func TestParseTokenRefuses(t *testing.T) {
	for _, token := range []string{"", "*", ">", "a.b", "a b", "=4", "a=", "=ZZ", "=+1", strings.Repeat("a", bus.MaxToken+1), "é"} {
		if name, err := bus.ParseToken(token); err == nil {
			t.Errorf("ParseToken(%q) is %q, want an error", token, name)
		}
	}
}

// TestInboxesAreDistinct: no inbox is another's, and none begins with another's,
// whatever the names of pods and people hold.
func TestInboxesAreDistinct(t *testing.T) {
	part := rapid.OneOf(rapid.SampledFrom([]string{".", "_", "=", "=5F", "=-", "a", "A", "-", ":", ">", "*", strings.Repeat("long", 64)}), rapid.String())
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(part, 0, 3).Draw(t, "parts"), "")
	})
	check := func(t rapid.TB, one, other [2]string) {
		a, b := bus.InboxPrefix(one[0], one[1])+".", bus.InboxPrefix(other[0], other[1])+"."
		if one != other && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a)) {
			t.Fatalf("%q has the inbox %s and %q the inbox %s", one, a, other, b)
		}
	}
	for _, c := range [][2][2]string{
		{{"shop", "web.v2"}, {"shop", "web_v2"}},
		{{"shop", "web_v2"}, {"shop", "web=5Fv2"}},
		{{"", "j.doe@example.org"}, {"", "j_doe@example.org"}},
		{{"a.b", "c"}, {"a", "b.c"}},
		{{"", "shop"}, {"shop", ""}},
		{{"", "a"}, {"=", "a"}},
		{{"", strings.Repeat("a", 300)}, {"", strings.Repeat("a", 301)}},
	} {
		check(t, c[0], c[1])
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, [2]string{name.Draw(t, "namespace"), name.Draw(t, "pod")}, [2]string{name.Draw(t, "other namespace"), name.Draw(t, "other pod")})
	})
}

// TestHostileNames: whatever a name holds, its subject has its own number of
// tokens, none of them a wildcard, and gives the same name back.
func TestHostileNames(t *testing.T) {
	alphabet := rapid.OneOf(rapid.SampledFrom([]string{".", "*", ">", " ", "\r\n", "=", "_", "$", "\x00", "\t", "-", "=-"}), rapid.String())
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(alphabet, 0, 4).Draw(t, "parts"), "")
	})
	rapid.Check(t, func(t *rapid.T) {
		w := event.Workload{Cluster: name.Draw(t, "cluster"), Namespace: name.Draw(t, "namespace"), Kind: name.Draw(t, "kind"), Name: name.Draw(t, "name")}
		for _, subject := range []string{bus.EventsSubject(w), bus.TapSubject(w), bus.StatsSubject(w), bus.TappedSubject(w)} {
			tokens := strings.Split(subject, ".")
			if len(tokens) != 7 {
				t.Fatalf("subject %q has %d tokens", subject, len(tokens))
			}
			for _, token := range tokens {
				if token == "" || strings.ContainsAny(token, "*> \t\r\n\x00") || len(token) > bus.MaxToken {
					t.Fatalf("subject %q has the token %q", subject, token)
				}
			}
			if got, err := bus.ParseWorkload(subject); err == nil && got != w && !strings.Contains(subject, "=-") {
				t.Fatalf("ParseWorkload(%q) is %q, want %q", subject, got, w)
			} else if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestParseWorkload(t *testing.T) {
	want := event.Workload{Cluster: "c", Namespace: "n.s", Kind: "deploy", Name: "web"}
	for _, subject := range []string{"weir.v1.events.c.n_s.deploy.web", "weir.v1.part.15.c.n_s.deploy.web", "weir.v1.tap.c.n_s.deploy.web"} {
		if got, err := bus.ParseWorkload(subject); err != nil || got != want {
			t.Errorf("ParseWorkload(%q) is %v, %v, want %v", subject, got, err, want)
		}
	}
	for _, subject := range []string{
		"", "weir", "weir.v1.events", "weir.v1.events.a.b.c", "weir.v1.events.a.b.c.d.e", "weir.v2.events.a.b.c.d",
		"weir.v1.part.a.b.c.d", "weir.v1.part.16.a.b.c.d", "weir.v1.part.-1.a.b.c.d", "weir.v1.part.1", "weir.v1.tap.*.b.c.d", "weir.v1.rollups.1",
	} {
		if got, err := bus.ParseWorkload(subject); err == nil {
			t.Errorf("ParseWorkload(%q) is %v, want an error", subject, got)
		}
	}
}

func TestParseMember(t *testing.T) {
	for _, id := range []string{"agg-0", "a.b", "", "*", "weird name>"} {
		if got, err := bus.ParseMember(bus.MemberSubject(id)); err != nil || got != id {
			t.Errorf("member %q came back as %q, %v", id, got, err)
		}
	}
	for _, subject := range []string{"", "$KV.WEIR_MEMBERS.", "$KV.OTHER.a", "$KV.WEIR_MEMBERS.a.b"} {
		if got, err := bus.ParseMember(subject); err == nil {
			t.Errorf("ParseMember(%q) is %q, want an error", subject, got)
		}
	}
}

func TestCheckPartition(t *testing.T) {
	for _, p := range []int{0, bus.Partitions - 1} {
		if err := bus.CheckPartition(p); err != nil {
			t.Error(err)
		}
	}
	for _, p := range []int{-1, bus.Partitions} {
		if err := bus.CheckPartition(p); !errors.Is(err, bus.ErrPartition) {
			t.Errorf("CheckPartition(%d) is %v", p, err)
		}
	}
}

func FuzzParseWorkload(f *testing.F) {
	f.Add("weir.v1.events.a.b.c.d")
	f.Add("weir.v1.part.3.=.=2A.a_b.=-00")
	f.Fuzz(func(t *testing.T, subject string) {
		w, err := bus.ParseWorkload(subject)
		if err != nil {
			return
		}
		// What was read can be written, and stays within its four tokens.
		if n := strings.Count(bus.TapSubject(w), "."); n != 6 {
			t.Fatalf("workload %q of subject %q gives %d dots", w, subject, n)
		}
	})
}
