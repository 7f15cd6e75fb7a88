package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// check makes one exchange of the load's kind through a contender and looks at
// all of the answer: the load generators look at the status only.
func check(ctx context.Context, group string, c *contender) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch group {
	case groupHTTP1, groupLatency:
		return errors.Join(checkHTTP(ctx, "http://"+c.at.HTTP1+"/128", false, smallBody),
			checkHTTP(ctx, "http://"+c.at.HTTP1+"/64k", false, largeBody))
	case groupHTTP2:
		return checkHTTP(ctx, "http://"+c.at.HTTP2+"/128", true, smallBody)
	case groupGRPC:
		return checkGRPC(ctx, c.at.GRPC)
	}
	return nil // TCP's load looks at what came itself.
}

func checkHTTP(ctx context.Context, url string, http2 bool, length int) error {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || len(body) != length || http2 != (response.ProtoMajor == 2) {
		return fmt.Errorf("%s: got %s %s and %d bytes, want %d", url, response.Proto, response.Status, len(body), length)
	}
	return nil
}

func checkGRPC(ctx context.Context, address string) error {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	sent := bytes.Repeat([]byte{7}, messageBytes)
	var got []byte
	if err := conn.Invoke(ctx, grpcUnary, &sent, &got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("a unary call returned %d bytes that are not those sent", len(got))
	}
	stream, err := conn.NewStream(ctx, &echoService.Streams[0], grpcStream)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(&sent), stream.CloseSend()); err != nil {
		return err
	}
	for n := 0; ; n++ {
		err := stream.RecvMsg(&got)
		if errors.Is(err, io.EOF) && n == streamMessages {
			return nil
		}
		if err != nil {
			return fmt.Errorf("a stream ended after %d messages: %w", n, err)
		}
		if !bytes.Equal(got, sent) {
			return fmt.Errorf("message %d of a stream is not what was sent", n)
		}
	}
}
