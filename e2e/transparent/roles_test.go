package transparent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

// roleVariable makes this program one of the applications on a host.
const roleVariable = "WEIR_TEST_ROLE"

// ready is what a role writes once it serves.
const ready = "ready to serve"

// Ports of the role "apps".
const (
	httpPort      = "8080" // HTTP/1 and HTTP/2 without TLS
	grpcPort      = "9000"
	echoPort      = "7000" // waits for the client
	bannerPort    = "7001" // speaks first
	whoPort       = "7002" // says who connected, first
	natsPort      = "4222" // opaque by default
	natsOtherPort = "4333" // not so
	websocketPort = "8090" // NATS over WebSocket
)

// play is main of a role: its name, and its arguments.
func play(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	words := strings.Fields(role)
	var err error
	switch words[0] {
	case "bus":
		err = playBus(ctx, words[1])
	case "events":
		err = playEvents(ctx, words[1])
	case "discovery":
		err = playDiscovery(ctx, words[1], words[2])
	case "apps":
		err = playApps(ctx)
	case "grpc":
		err = playGRPC(ctx, words[1])
	case "nats":
		err = playNATS(words[1])
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// playBus runs Weir's bus, open to the hosts of the test.
func playBus(ctx context.Context, dir string) error {
	s, err := server.Start(ctx, server.Options{Listen: "0.0.0.0:4222", DataDir: dir, Insecure: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println(ready)
	<-ctx.Done()
	return nil
}

// playEvents writes each event on the bus as a line of JSON.
func playEvents(ctx context.Context, url string) error {
	c, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer c.Close()
	var d event.Decoder
	_, err = c.Subscribe("weir.v1.events.>", func(m *nats.Msg) {
		if err := d.Reset(m.Data); err != nil {
			fmt.Println("malformed batch:", err)
			return
		}
		var e event.Event
		for i := 0; d.Next(&e); i++ {
			fmt.Printf("%s\n", event.AppendJSON(nil, d.Header(), i, &e))
		}
		if err := d.Err(); err != nil {
			fmt.Printf("malformed batch: %v: %x\n", err, m.Data)
		}
	})
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return err
	}
	fmt.Println(ready)
	<-ctx.Done()
	return nil
}

// playApps runs servers of many protocols.
func playApps(ctx context.Context) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: http.HandlerFunc(answer), Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	calls := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(calls, health.NewServer())
	for port, serve := range map[string]func(net.Listener) error{
		httpPort:   web.Serve,
		grpcPort:   calls.Serve,
		echoPort:   each(func(c net.Conn) { _, _ = io.Copy(c, c) }),
		bannerPort: each(func(c net.Conn) { _, _ = io.WriteString(c, "220 banner\r\n"); _, _ = io.Copy(c, c) }),
		whoPort: each(func(c net.Conn) {
			ip, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = fmt.Fprintln(c, ip)
		}),
	} {
		ln, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			if err := serve(ln); err != nil {
				fmt.Println(err)
			}
		}()
	}
	for _, o := range []*natsserver.Options{
		{Host: "::", Port: 4222, NoSigs: true},
		{Host: "::", Port: 4333, NoSigs: true, Websocket: natsserver.WebsocketOpts{Host: "::", Port: 8090, NoTLS: true}},
	} {
		n, err := natsserver.NewServer(o)
		if err != nil {
			return err
		}
		n.Start()
		defer n.Shutdown()
		if !n.ReadyForConnections(time.Minute) {
			return errors.New("nats-server does not start")
		}
	}
	fmt.Println(ready)
	<-ctx.Done()
	return nil
}

// answer says what was asked, over which protocol, and echoes a body.
func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		time.Sleep(time.Second)
	}
	fmt.Fprintf(w, "%s %s %s\n", r.Proto, r.Method, r.URL.Path)
	_, _ = io.Copy(w, r.Body)
}

// each serves every connection by f, for as long as the program runs.
func each(f func(net.Conn)) func(net.Listener) error {
	return func(ln net.Listener) error {
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			go func() { defer c.Close(); f(c) }()
		}
	}
}

// playGRPC makes one call.
func playGRPC(ctx context.Context, target string) error {
	c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	fmt.Println(r.GetStatus())
	return nil
}

// playNATS makes one request of a responder that is connected on its own.
func playNATS(url string) error {
	responder, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer responder.Close()
	if _, err := responder.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		return err
	}
	if err := responder.Flush(); err != nil {
		return err
	}
	c, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := c.Request("echo", []byte("over "+url), time.Minute)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", m.Data)
	return nil
}
