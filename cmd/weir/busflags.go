package main

import (
	"log/slog"

	"github.com/spf13/cobra"
	busclient "github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/cli"
)

// busFlags say how a component reaches the bus.
type busFlags struct{ url, tokenFile, anchorsFile string }

func (b *busFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&b.url, "bus", defaultBusURL, "the bus, nats://host:port; several with commas between")
	f.StringVar(&b.tokenFile, "bus-token-file", "", "file of the token to show to the bus, read anew for each connection")
	f.StringVar(&b.anchorsFile, "bus-anchors-file", "", "file of trust anchors, PEM; where given, the bus must prove its name by TLS")
}

// connect connects a component to the bus. An absent bus is no error: the
// client goes on trying, and says so in the log.
func (b *busFlags) connect(cmd *cobra.Command, name string) (*busclient.Client, error) {
	c, err := busclient.Connect(cmd.Context(), busclient.Options{
		URL: b.url, Name: name, TokenFile: b.tokenFile, AnchorsFile: b.anchorsFile, Logger: slog.Default(),
	})
	if err != nil {
		return nil, cli.Usagef(cmd, "--bus: %w", err)
	}
	return c, nil
}

// connected says whether a component's connection is up.
func (b *busFlags) connected(c *busclient.Client) func() error {
	return func() error {
		if !c.Connected() {
			return errNoBus(b.url)
		}
		return nil
	}
}
