package route_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weirmesh/weir/aggregator/route"
)

func template(t *route.Tree, path string, now int64) string {
	return string(t.Template(nil, path, now))
}

func canonical(t *route.Tree, path string) string { return string(t.Canonical(nil, path)) }

func name(i int) string {
	const letters = "abcdefghijklmnop"
	b := []byte("n")
	for ; i > 0; i /= 16 {
		b = append(b, letters[i%16])
	}
	return string(b)
}

func TestVarietyBecomesAny(t *testing.T) {
	budget := &route.Budget{Nodes: 100_000}
	tree := route.NewTree(budget)
	for i := range 5000 {
		// What is popular keeps its name, what is elsewhere is not touched.
		for _, path := range []string{"/users/me", "/health", "/v1/items/42"} {
			if got := template(tree, path, int64(i)); i > 1000 && got == "/users/{*}" {
				t.Fatalf("%s is %s", path, got)
			}
		}
		want := "/users/" + name(i) + "/orders"
		if i >= route.Variety {
			want = "/users/{*}/orders"
		}
		if got := template(tree, "/users/"+name(i)+"/orders", int64(i)); got != want && i != route.Variety-1 {
			t.Fatalf("the path of %d is %s, want %s", i, got, want)
		}
	}
	for path, want := range map[string]string{
		"/users/me":                     "/users/me",
		"/users/123":                    "/users/{id}",
		"/users/never-seen":             "/users/{*}",
		"/users/" + name(3) + "/orders": "/users/{*}/orders",
		"/health":                       "/health",
		"/elsewhere/" + name(3):         "/elsewhere/" + name(3),
	} {
		if got := canonical(tree, path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if got := tree.Positions(); len(got) != 1 || got[0].Prefix != "/users" || !slices.Equal(got[0].Kept, []string{"me"}) {
		t.Errorf("positions: %+v", got)
	}
	if tree.Nodes() > 50 {
		t.Errorf("%d nodes are left", tree.Nodes())
	}
}

// TestLearnedTreesAgree: a tree that is told what another has learned gives the
// same templates, in whatever order it is told.
func TestLearnedTreesAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	first := route.NewTree(&route.Budget{Nodes: 100_000})
	path := func() string {
		p := "/" + []string{"a", "b", "c"}[rng.IntN(3)]
		for range rng.IntN(4) {
			if rng.IntN(3) == 0 {
				p += "/" + name(rng.IntN(100_000))
			} else {
				p += "/" + []string{"x", "y", "17", name(rng.IntN(60))}[rng.IntN(4)]
			}
		}
		return p
	}
	for i := range 30_000 {
		first.Template(nil, path(), int64(i))
	}
	learned := first.Positions()
	if len(learned) == 0 {
		t.Fatal("nothing was learned")
	}
	for range 5 {
		rng.Shuffle(len(learned), func(i, j int) { learned[i], learned[j] = learned[j], learned[i] })
		second := route.NewTree(&route.Budget{Nodes: 100_000})
		for _, p := range learned {
			second.Learn(p)
		}
		for range 2000 {
			p := path()
			if a, b := canonical(first, p), canonical(second, p); a != b {
				t.Fatalf("%s is %s to one and %s to the other", p, a, b)
			}
		}
	}
}

// TestWhatWasCountedIsFoundAgain: whatever the order in which paths came, an
// earlier template's canonical form is that of its path.
func TestWhatWasCountedIsFoundAgain(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 5 {
		budget := &route.Budget{Nodes: 3000}
		tree := route.NewTree(budget)
		type pair struct{ path, template string }
		var seen []pair
		for i := range 3000 {
			p := anyPath(rng)
			if i%2 == 0 {
				p = "/u/" + name(rng.IntN(1<<20)) + "/" + name(rng.IntN(1<<10)) + "/z"
			}
			seen = append(seen, pair{p, template(tree, p, int64(i))})
		}
		for _, s := range seen {
			now := canonical(tree, s.template)
			if again := canonical(tree, now); again != now {
				t.Fatalf("round %d: %q is %q, and that %q", round, s.template, now, again)
			}
			if len(now) > route.MaxTemplate {
				t.Fatalf("%q is %d bytes long", now, len(now))
			}
		}
		if n := canonical(tree, "/u/some/body/z"); n != "/u/{*}/{*}/z" {
			t.Errorf("round %d: %s", round, n)
		}
		nodes := tree.Nodes()
		if nodes+budget.Nodes != 3000 {
			t.Errorf("round %d: %d nodes taken of 3000, %d left", round, nodes, budget.Nodes)
		}
		tree.Reset()
		if budget.Nodes != 3000 {
			t.Errorf("round %d: %d nodes left of 3000 after all", round, budget.Nodes)
		}
	}
}

// TestTreeIsBounded against paths that are made to grow it: wide, deep, both.
func TestTreeIsBounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	paths := map[string]func(i int) string{
		"wide": func(i int) string { return "/" + name(i) },
		"deep": func(i int) string {
			p := ""
			for range 14 {
				p += "/" + name(rng.IntN(3))
			}
			return p
		},
		"just below the variety": func(i int) string {
			return "/" + name(rng.IntN(90)) + "/" + name(rng.IntN(90)) + "/" + name(rng.IntN(90))
		},
		"popular names": func(i int) string {
			return "/" + name(rng.IntN(16)) + "/" + name(rng.IntN(16)) + "/" + name(rng.IntN(16)) + "/" + name(rng.IntN(16))
		},
		"anything": func(i int) string { return anyPath(rng) },
	}
	for what, path := range paths {
		budget := &route.Budget{Nodes: 5000}
		tree := route.NewTree(budget)
		templates := map[string]bool{}
		var dst []byte
		for i := range 20_000 {
			dst = tree.Template(dst[:0], path(i), int64(i))
			if n := tree.Nodes(); n > 1100 || n+budget.Nodes != 5000 {
				t.Fatalf("%s: %d nodes, %d left of 5000", what, n, budget.Nodes)
			}
			if i > 10_000 {
				templates[string(dst)] = true
			}
		}
		t.Logf("%s: %d nodes, %d templates late", what, tree.Nodes(), len(templates))
	}
}

func TestTreeWithoutBudget(t *testing.T) {
	tree := route.NewTree(&route.Budget{Nodes: 3})
	for i := range 1000 {
		p := fmt.Sprintf("/a/%s/%d", name(i), i)
		if got := template(tree, p, 0); got == "" || tree.Nodes() > 4 {
			t.Fatalf("%s is %q with %d nodes", p, got, tree.Nodes())
		}
	}
}

func TestTreeForgets(t *testing.T) {
	budget := &route.Budget{Nodes: 100_000}
	tree := route.NewTree(budget)
	for i := range 200 {
		tree.Template(nil, "/users/"+name(i), 1000)
	}
	tree.Template(nil, "/users/"+name(1)+"/x", 1000)
	tree.Sweep(1000 + 7200)
	if got := canonical(tree, "/users/someone"); got != "/users/{*}" {
		t.Errorf("after two hours: %s", got)
	}
	// Two sweeps: what hangs below is forgotten after what it hangs on.
	tree.Sweep(1000 + 25*3600)
	tree.Sweep(1000 + 25*3600)
	if got := canonical(tree, "/users/someone"); got != "/users/someone" || tree.Nodes() != 0 || budget.Nodes != 100_000 {
		t.Errorf("after a day: %s, %d nodes", got, tree.Nodes())
	}
}

func BenchmarkTemplate(b *testing.B) {
	for what, path := range map[string]func(i int) string{
		"steady":  func(i int) string { return fmt.Sprintf("/api/route/r%c/%d", 'a'+i%26, i) },
		"learned": func(i int) string { return "/users/" + name(i+1000) + "/orders" },
	} {
		b.Run(what, func(b *testing.B) {
			tree := route.NewTree(&route.Budget{Nodes: 100_000})
			paths := make([]string, 1024)
			for i := range paths {
				paths[i] = path(i)
				tree.Template(nil, paths[i], 0)
			}
			var dst []byte
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				dst = tree.Template(dst[:0], paths[i%len(paths)], 0)
			}
		})
	}
}
