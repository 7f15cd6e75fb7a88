package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

const roleReverseProxy = "reverse-proxy"

// route is where a proxy listens and where it carries that to.
type route struct{ listen, target string }

// serveReverseProxy runs httputil.ReverseProxy until ctx ends, tuned as its
// documentation allows: pooled buffers, as many idle connections as wanted. The
// first route is HTTP/1.1, the others HTTP/2.
func serveReverseProxy(ctx context.Context, routes [3]route) error {
	var config net.ListenConfig
	var wg sync.WaitGroup
	defer wg.Wait()
	failed := make(chan error, len(routes))
	for i, r := range routes {
		listener, err := config.Listen(ctx, "tcp", r.listen)
		if err != nil {
			return err
		}
		server := newReverseProxy(r.target, i > 0)
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		wg.Go(func() { failed <- server.Serve(listener) })
	}
	err := <-failed
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func newReverseProxy(target string, http2 bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	silent := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
		},
		Transport: &http.Transport{
			Protocols:           &protocols,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     time.Hour,
		},
		BufferPool: &buffers{},
		ErrorLog:   silent,
	}
	return &http.Server{
		Handler:           proxy,
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1024},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          silent,
	}
}

// buffers is a pool for ReverseProxy's copies.
type buffers struct{ pool sync.Pool }

const copyBuffer = 32 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return p[:]
	}
	return make([]byte, copyBuffer)
}

func (b *buffers) Put(p []byte) {
	if len(p) == copyBuffer {
		b.pool.Put((*[copyBuffer]byte)(p))
	}
}
