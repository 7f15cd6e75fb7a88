package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

// A subscriber with Weir's own packages: events come decoded, and what was
// dropped because it is too slow is counted.
func ExampleClient_Tap() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.Connect(ctx, client.Options{URL: "nats://127.0.0.1:4222", Name: "example"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	show := func(data []byte) {
		e, err := event.ParseJSON(data)
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Println(e.Method, e.Path, e.Status, e.Latency, "µs")
	}
	dropped := func(total uint64) { log.Printf("%d events dropped so far: too slow", total) }
	err = c.Tap(ctx, event.Workload{Namespace: "emojivoto"}, show, dropped)
	log.Print(err)
}
