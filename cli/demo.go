package cli

import (
	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/demo"
)

func newDemo(a *app) *cobra.Command {
	o := demo.Defaults()
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole mesh with a sample application on this machine",
		Long: `Run a whole mesh on this machine, all of it on loopback: the bus, an aggregator,
the API and the dashboard, a sample application modelled on emojivoto (web,
emoji, voting, vote-bot), and a weir-proxy beside each of its workloads.

One emoji's vote always fails: find out which. It ends with Ctrl-C, or when the
process that started it ends, and leaves nothing behind.`,
		Example: `  weir demo
  weir demo --rate 1000
  weir demo --data ./demo-data   # keep the streams for the next time`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := demo.WithParent(cmd.Context())
			defer cancel()
			o.Verbose = a.verbose
			return demo.Run(ctx, o, a.Streams.Out, a.Streams.ErrOut)
		},
	}
	f := cmd.Flags()
	f.Float64Var(&o.Rate, "rate", o.Rate, "votes a second of the application's bot; 0: none")
	f.StringVar(&o.DataDir, "data", "", "folder to keep the bus's streams in (default: a temporary one, removed at the end)")
	f.StringVar(&o.BusAddr, "bus-addr", o.BusAddr, "address of the bus")
	f.StringVar(&o.GRPCAddr, "grpc-addr", o.GRPCAddr, "address of the API, gRPC")
	f.StringVar(&o.HTTPAddr, "http-addr", o.HTTPAddr, "address of the API, HTTP/JSON")
	f.StringVar(&o.DashboardAddr, "dashboard-addr", o.DashboardAddr, "address of the dashboard")
	f.StringVar(&o.WebAddr, "web-addr", o.WebAddr, "address of the application's page, behind its proxy")
	f.IntVar(&o.PortBase, "port-base", o.PortBase, "first of nine ports that the proxies use among themselves")
	f.StringVar(&o.Proxy, "proxy", "", "the weir-proxy binary (default: beside this one, else in PATH)")
	return cmd
}
