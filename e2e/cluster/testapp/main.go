// Command testapp is what tests put into pods: a server, a client, and a look at the
// pod itself. Its image has nothing else in it, so it is also what `kubectl exec`
// runs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const usage = `usage:
  testapp serve HOST:PORT    answer every request with this pod's name, until SIGTERM
  testapp get URL [N]        make N requests (1), and print how many ended with each status
  testapp lookup NAME        print the addresses of a name
  testapp status             print /proc/self/status
  testapp write FILE         try to write a file
`

var errUsage = errors.New("this is not how it is used")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if errors.Is(err, errUsage) {
		fmt.Fprint(os.Stderr, usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "status" {
		text, err := os.ReadFile("/proc/self/status")
		fmt.Print(string(text))
		return err
	}
	if len(args) < 2 {
		return errUsage
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1])
	case "get":
		n := 1
		if len(args) > 2 {
			var err error
			if n, err = strconv.Atoi(args[2]); err != nil {
				return err
			}
		}
		return get(ctx, args[1], n)
	case "lookup":
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		addresses, err := net.DefaultResolver.LookupHost(ctx, args[1])
		fmt.Println(strings.Join(addresses, "\n"))
		return err
	case "write":
		return os.WriteFile(args[1], []byte("x"), 0o644)
	}
	return errUsage
}

// serve answers until ctx ends, and then goes on for as long as Kubernetes takes to
// send nobody here any more.
func serve(ctx context.Context, address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, ReadHeaderTimeout: 10 * time.Second}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-From", r.RemoteAddr)
		_, _ = fmt.Fprintln(w, name) // the client may be gone
	})
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	fmt.Println("serving", address)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	time.Sleep(time.Second)
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(sctx)
}

// get makes requests over one connection, and fails if one has no answer.
func get(ctx context.Context, url string, n int) error {
	client := &http.Client{Timeout: 20 * time.Second}
	counts := map[string]int{}
	for range n {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // read to its end
		if err != nil {
			return err
		}
		counts[resp.Status+" "+strings.TrimSpace(string(body))]++
	}
	for what, count := range counts {
		fmt.Println(count, what)
	}
	return nil
}
