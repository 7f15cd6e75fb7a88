package route_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/weirmesh/weir/aggregator/route"
)

func checkShapes(t *testing.T, table map[string]string) {
	t.Helper()
	for path, want := range table {
		if got := string(route.Shape(nil, path)); got != want {
			t.Errorf("%.80s\n  is    %s\n  want  %s", path, got, want)
		}
	}
}

func TestShapesWithoutIDs(t *testing.T) {
	checkShapes(t, map[string]string{
		"/":                                   "/",
		"":                                    "",
		"*":                                   "*",
		"/api/vote":                           "/api/vote",
		"/users/":                             "/users/",
		"//double//slash":                     "//double//slash",
		"/v1/users/me":                        "/v1/users/me",
		"/api/v2/orders":                      "/api/v2/orders",
		"/apis/apps/v1beta1/deployments":      "/apis/apps/v1beta1/deployments",
		"/api/2.0/search":                     "/api/2.0/search",
		"/download/v1.2.3/weir":               "/download/v1.2.3/weir",
		"/.well-known/acme-challenge":         "/.well-known/acme-challenge",
		"/.well-known/openid-configuration":   "/.well-known/openid-configuration",
		"/graphql":                            "/graphql",
		"/favicon.ico":                        "/favicon.ico",
		"/static/app.js":                      "/static/app.js",
		"/index.html":                         "/index.html",
		"/en-US/docs/Web/API":                 "/en-US/docs/Web/API",
		"/oauth2/token":                       "/oauth2/token",
		"/oauth2callback":                     "/oauth2callback",
		"/s3/buckets":                         "/s3/buckets",
		"/login/sha256":                       "/login/sha256",
		"/getUserByIdV2":                      "/getUserByIdV2",
		"/@angular/core":                      "/@angular/core",
		"/emojivoto.v1.VotingService/VoteJoy": "/emojivoto.v1.VotingService/VoteJoy",
		"/hello%20world":                      "/hello%20world",
		"/caf%C3%A9":                          "/caf%C3%A9",
		"/wiki/Größe":                         "/wiki/Größe",
		"/wp-admin/admin-ajax.php":            "/wp-admin/admin-ajax.php",
		"/facade/decade":                      "/facade/decade",
		"/face2face":                          "/face2face",
		"/a;b=c":                              "/a;b=c",
	})
}

func TestShapesWithIDs(t *testing.T) {
	checkShapes(t, map[string]string{
		// Numbers.
		"/users/123":                     "/users/{id}",
		"/users/123/orders/4":            "/users/{id}/orders/{id}",
		"/users/-7":                      "/users/-{id}",
		"/v1/accounts/42/close":          "/v1/accounts/{id}/close",
		"/2024/05/17/hello-world":        "/{id}/{id}/{id}/hello-world",
		"/users/1,2,3":                   "/users/{id}",
		"/near/51.5074,-0.1278":          "/near/{id}",
		"/host/10.0.0.17":                "/host/{id}",
		"/phone/+14155552671":            "/phone/+{id}",
		"/odata/Users(123)/Name":         "/odata/Users({id})/Name",
		"/items/item-12345":              "/items/item-{id}",
		"/items/user1234":                "/items/user{id}",
		"/npm/lodash/4.17.21":            "/npm/lodash/{id}",
		"/mem/0xdeadbeef":                "/mem/{id}",
		"/img/320x240/cat.png":           "/img/320x240/cat.png",
		"/img/1024x768/cat.png":          "/img/{id}/cat.png",
		"/a;jsessionid=1A2B3C4D5E6F7081": "/a;jsessionid={id}",
		"/cars/year=2024":                "/cars/year={id}",
		"/k8s/pods/web-7d4b9c6f5-x2x8z":  "/k8s/pods/web-{id}",
		// UUIDs, hashes, tokens.
		"/o/6f1c2b5e-8f1d-4c55-9d59-3c0d6f3f9a11":                                        "/o/{id}",
		"/o/6F1C2B5E-8F1D-4C55-9D59-3C0D6F3F9A11/items":                                  "/o/{id}/items",
		"/o/urn:uuid:6f1c2b5e-8f1d-4c55-9d59-3c0d6f3f9a11":                               "/o/urn:uuid:{id}",
		"/blobs/sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": "/blobs/sha256:{id}",
		"/commit/d670460b4b4aece5915caf5c68d12f560a9fe3e4":                               "/commit/{id}",
		"/commit/3f2a9b1":                  "/commit/{id}",
		"/docs/507f1f77bcf86cd799439011":   "/docs/{id}",
		"/u/01ARZ3NDEKTSV4RRFFQ69G5FAV":    "/u/{id}",
		"/u/V1StGXR8_Z5jdHi6B-myT":         "/u/{id}",
		"/u/0ujtsYcgvSTl8PAuAdqWYSMnLOv":   "/u/{id}",
		"/u/cjld2cjxh0000qzrmn831i7rn":     "/u/{id}",
		"/watch/dQw4w9WgXcQ":               "/watch/{id}",
		"/v1/customers/cus_9s6XKzkNRiz8i3": "/v1/customers/cus_{id}",
		"/session/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U": "/session/{id}",
		"/t/MTIzNDU2Nzg5MGFiY2RlZg==":     "/t/{id}",
		"/t/MTIzNDU2Nzg5MGFiY2RlZg%3D%3D": "/t/{id}",
	})
}

func TestShapesOfFilesAndOthers(t *testing.T) {
	long := strings.Repeat("very-long-", 12)
	checkShapes(t, map[string]string{
		// Files.
		"/static/app.3f2a9b1c.js":         "/static/app.{id}.js",
		"/static/main-4f3e2d1c.chunk.css": "/static/main-{id}.chunk.css",
		"/avatars/12345.jpg":              "/avatars/{id}.jpg",
		"/img/photo-123-456.png":          "/img/photo-{id}.png",
		"/js/jquery-3.6.0.min.js":         "/js/jquery-{id}.min.js",
		"/logs/2024-05-17.log":            "/logs/{id}.log",
		// Dates and addresses.
		"/reports/2024-05-17":          "/reports/{date}",
		"/reports/2024-05":             "/reports/{date}",
		"/reports/2024-W20":            "/reports/{date}",
		"/at/2024-05-17T12:30:00Z":     "/at/{date}",
		"/at/2024-05-17T12%3A30%3A00Z": "/at/{date}",
		"/users/joe@example.com/inbox": "/users/{email}/inbox",
		"/users/joe%40example.co.uk":   "/users/{email}",
		// No paths, or hardly.
		"example.com:443":                  "{authority}",
		"[2001:db8::1]:443":                "{authority}",
		"http://example.com/users/123":     "/users/{id}",
		"http://example.com":               "/",
		"/search?q=1":                      "/search",
		"GARBAGE":                          "{*}",
		"/" + long:                         "/{*}",
		"/x/" + strings.Repeat("A", 5000):  "/x/{id}",
		"/x/" + strings.Repeat("a/", 5000): "/x" + strings.Repeat("/a", 15) + "/{**}",
		"/%00%01\x02/\xff\xfe":             "/%00%01\x02/\xff\xfe",
		// Templates.
		"/users/{id}/orders/{*}": "/users/{id}/orders/{*}",
		"/static/app.{id}.js":    "/static/app.{id}.js",
	})
}

// anyPath is a path of any sort, often hostile.
func anyPath(rng *rand.Rand) string {
	words := []string{"users", "api", "v1", "42", "{id}", "{*}", "{**}", "%41%", "%3D", "=", "a.b", "", "-", "_", "é", "\xff", "2024-05-17", "x@y.zz",
		"d670460b4b4aece5915caf5c68d12f560a9fe3e4", "app.3f2a9b1c.js", "(other)", "…", strings.Repeat("long", 30)}
	var b strings.Builder
	for range rng.IntN(25) {
		if rng.IntN(8) > 0 {
			b.WriteByte('/')
		}
		for range rng.IntN(3) {
			if rng.IntN(4) == 0 {
				b.WriteByte(byte(rng.IntN(256)))
			} else {
				b.WriteString(words[rng.IntN(len(words))])
			}
		}
	}
	return b.String()
}

func TestTemplateOfATemplateIsItself(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		path := anyPath(rng)
		once := string(route.Shape(nil, path))
		if twice := string(route.Shape(nil, once)); once != twice {
			t.Fatalf("%q is %q, and that %q", path, once, twice)
		}
		if len(once) > route.MaxTemplate {
			t.Fatalf("%q is %d bytes long", once, len(once))
		}
	}
}

func FuzzShape(f *testing.F) {
	f.Add("/users/123")
	f.Fuzz(func(t *testing.T, path string) {
		once := string(route.Shape(nil, path))
		if twice := string(route.Shape(nil, once)); once != twice || len(once) > route.MaxTemplate {
			t.Errorf("%q is %q, and that %q", path, once, twice)
		}
	})
}

func BenchmarkShape(b *testing.B) {
	paths := []string{"/api/route/17", "/v1/users/6f1c2b5e-8f1d-4c55-9d59-3c0d6f3f9a11/orders", "/static/app.3f2a9b1c.js", "/healthz"}
	var dst []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		dst = route.Shape(dst[:0], paths[i%len(paths)])
	}
}
