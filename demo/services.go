package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/weirmesh/weir/demo/app"
	"github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// services are the sample application's servers. They know their sidecars'
// outbound listeners as the addresses of the services behind them, and no more
// of the mesh.
type services struct {
	addresses map[string]string
	bot       *app.Bot

	stops []func()
	wg    sync.WaitGroup
}

// listen starts the servers on ports that the system chooses.
func listen(l layout, failed func(error)) (*services, error) {
	s := &services{addresses: map[string]string{}}
	if err := s.listen(l, failed); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *services) listen(l layout, failed func(error)) error {
	emoji, voting := grpc.NewServer(), grpc.NewServer()
	emojipb.RegisterEmojiServiceServer(emoji, &app.Emoji{})
	emojipb.RegisterVotingServiceServer(voting, &app.Voting{})
	if err := s.serveGRPC("emoji", emoji, failed); err != nil {
		return err
	}
	if err := s.serveGRPC("voting", voting, failed); err != nil {
		return err
	}
	toEmoji, err := s.dial(l.at(portWebEmoji), "emoji."+Namespace)
	if err != nil {
		return err
	}
	toVoting, err := s.dial(l.at(portWebVoting), "voting."+Namespace)
	if err != nil {
		return err
	}
	if err := s.serveHTTP("web", app.NewWeb(toEmoji, toVoting), failed); err != nil {
		return err
	}
	s.bot = &app.Bot{URL: "http://web." + Namespace, Dial: l.at(portBotOut), Rate: l.o.Rate}
	return nil
}

func (s *services) open(name string) (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot listen for %s: %w", name, err)
	}
	s.addresses[name] = ln.Addr().String()
	return ln, nil
}

func (s *services) serveGRPC(name string, server *grpc.Server, failed func(error)) error {
	ln, err := s.open(name)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, server.Stop)
	s.wg.Go(func() {
		if err := server.Serve(ln); err != nil {
			failed(fmt.Errorf("%s ended: %w", name, err))
		}
	})
	return nil
}

func (s *services) serveHTTP(name string, handler http.Handler, failed func(error)) error {
	ln, err := s.open(name)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.stops = append(s.stops, func() { _ = server.Close() }) // nothing is to be saved
	s.wg.Go(func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("%s ended: %w", name, err))
		}
	})
	return nil
}

func (s *services) dial(address, authority string) (*grpc.ClientConn, error) {
	cc, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority))
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of %s: %w", authority, err)
	}
	s.stops = append(s.stops, func() { _ = cc.Close() }) // nothing is to be saved
	return cc, nil
}

// vote has the bot vote until the returned function is called, which waits for
// its last request.
func (s *services) vote() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.bot.Run(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// stop ends the servers.
func (s *services) stop() {
	for _, stop := range s.stops {
		stop()
	}
	s.wg.Wait()
}
