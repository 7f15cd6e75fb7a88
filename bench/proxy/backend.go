package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

const (
	roleBackend = "backend"

	grpcUnary  = "/bench.Echo/Unary"
	grpcStream = "/bench.Echo/Stream"
	// messageBytes is the length of each gRPC message, streamMessages how many
	// of them the server streams in a call.
	messageBytes   = 128
	streamMessages = 100

	tcpBuffer = 256 << 10
)

// serveBackend serves gRPC calls at one address and swallows bytes at another
// until ctx ends.
func serveBackend(ctx context.Context, grpcAddress, tcpAddress string) error {
	var config net.ListenConfig
	grpcListener, err := config.Listen(ctx, "tcp", grpcAddress)
	if err != nil {
		return err
	}
	tcpListener, err := config.Listen(ctx, "tcp", tcpAddress)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxConcurrentStreams(1024))
	server.RegisterService(&echoService, nil)
	stop := context.AfterFunc(ctx, func() {
		server.Stop()
		_ = tcpListener.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { swallow(tcpListener) })
	err = server.Serve(grpcListener)
	_ = tcpListener.Close()
	wg.Wait()
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// swallow reads each connection to its end and then answers how many bytes
// there were, 8 bytes big-endian: so the sender knows that all arrived.
func swallow(listener net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			var total uint64
			for buf := make([]byte, tcpBuffer); ; {
				n, err := conn.Read(buf)
				total += uint64(n)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return
				}
			}
			_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, total))
		})
	}
}

// echoService has a unary call that returns its request, and a call that
// streams it back streamMessages times.
var echoService = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Unary",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var message []byte
			if err := decode(&message); err != nil {
				return nil, err
			}
			return &message, nil
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName:    "Stream",
		ServerStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			var message []byte
			if err := stream.RecvMsg(&message); err != nil {
				return err
			}
			for range streamMessages {
				if err := stream.SendMsg(&message); err != nil {
					return err
				}
			}
			return nil
		},
	}},
}

// rawCodec takes messages as they are: *[]byte.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("cannot encode a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*message)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot decode into a %T", v)
	}
	*message = data.Materialize()
	return nil
}
