package api

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

//go:embed weirpb/weir.swagger.json
var openAPI []byte

// newHTTP serves everything that is HTTP.
func newHTTP(conn *grpc.ClientConn, m *serverMetrics, o *Options) http.Handler {
	gateway := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newMarshaler()),
		runtime.WithForwardResponseOption(startStream),
	)
	// The handlers' context is only used to close a connection made there.
	if err := weirpb.RegisterWeirHandlerClient(context.Background(), gateway, weirpb.NewWeirClient(conn)); err != nil {
		panic("BUG: the API's HTTP patterns contradict each other: " + err.Error())
	}
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", http.MaxBytesHandler(gateway, MaxMessageBytes))
	mux.HandleFunc("GET /api/v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openAPI)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.write(w)
	})
	if o.MeshMetrics != nil {
		mux.Handle("GET /metrics/mesh", o.MeshMetrics)
	}
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if o.Ready != nil {
			if err := o.Ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return mux
}

// marshaler writes fields under their names in the .proto, zeros included, and
// streams as newline-delimited JSON.
type marshaler struct{ runtime.JSONPb }

func newMarshaler() *marshaler {
	return &marshaler{runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
	}}
}

// StreamContentType implements runtime.StreamContentType.
func (*marshaler) StreamContentType(any) string { return "application/x-ndjson" }

// startStream sends the head of a stream's response as soon as the server has
// accepted it. Otherwise a browser would wait for it until the first event.
// The gateway calls it without message at a stream's begin.
func startStream(ctx context.Context, w http.ResponseWriter, msg proto.Message) error {
	if msg != nil {
		return nil
	}
	md, ok := runtime.ServerMetadataFromContext(ctx)
	if !ok || md.HeaderMD == nil {
		return nil // refused; the error has a status of its own
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	// A tap has no end.
	_ = rc.SetWriteDeadline(time.Time{})
	return rc.Flush()
}
