// Package dashboard serves Weir's web dashboard: the build of web/ (TypeScript)
// that is embedded in the binary, and, under api/, the query API that it reads.
package dashboard

import (
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

// dist is what `npm run build` left in web/dist. Where nobody ran it, only the
// placeholder is there, so that the Go build needs no Node.
//
//go:embed all:web/dist
var dist embed.FS

// policy lets the page load and ask only what it was served with. uPlot and
// the bars set style attributes.
const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// Handler serves the dashboard, with api as the base URL of Weir's HTTP API,
// e.g. http://127.0.0.1:8086. It is safe for concurrent use. log takes the
// API's failures.
func Handler(api *url.URL, log *slog.Logger) http.Handler {
	build, err := fs.Sub(dist, "web/dist")
	if err != nil {
		panic("BUG: " + err.Error()) // the path is a constant and valid
	}
	return handler(build, api, log)
}

func handler(build fs.FS, api *url.URL, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", apiProxy(api, log))
	if _, err := fs.Stat(build, "index.html"); errors.Is(err, fs.ErrNotExist) {
		mux.HandleFunc("/", unbuilt)
		return secure(mux)
	}
	mux.Handle("/", static(build))
	return secure(mux)
}

// secure sets the headers that every answer of the dashboard carries.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// static serves the build. Files under assets/ carry a hash of their content in
// their names and may be kept for good; index.html names them and may not.
func static(build fs.FS) http.Handler {
	files := http.FileServerFS(build)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the dashboard is read with GET", http.StatusMethodNotAllowed)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/assets/") {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			w.Header().Set("Cache-Control", "no-cache")
		}
		files.ServeHTTP(w, r)
	})
}

// apiProxy passes requests on to the API. Taps are streams: what the API sends
// goes out at once.
func apiProxy(api *url.URL, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(api)
			r.SetXForwarded()
		},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the browser went away, as it does when a page is left
			}
			log.Warn("the API does not answer", "api", api.String(), "path", r.URL.Path, "error", err)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadGateway)
			// The shape of the API's own errors, which the page reads.
			_, _ = w.Write([]byte(`{"code":14,"message":"no answer at ` + api.Host + `: is the weir api role running?"}`))
		},
	}
}

const unbuiltPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Weir: dashboard not built</title>
<body style="font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem">
<h1>The dashboard is not in this binary</h1>
<p>This weir was built without Node, so the web part is missing. The API works all the same
(<a href="/api/v1/openapi.json">its description</a>), and so does the command line.</p>
<p>To have the dashboard, install Node 20 or newer and build again:</p>
<pre>make dashboard build</pre>
</body></html>
`

func unbuilt(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusNotImplemented)
	_, _ = w.Write([]byte(unbuiltPage)) // the client went away: nobody to tell
}
