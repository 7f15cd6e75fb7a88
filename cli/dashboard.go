package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// probeTimeout bounds the wait for a dashboard to answer.
const probeTimeout = 3 * time.Second

type dashboardCommand struct {
	*app
	address string
	port    uint16
	show    string
	listen  string
	api     string
}

func newDashboard(a *app) *cobra.Command {
	d := &dashboardCommand{app: a}
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Open the dashboard in a browser, or serve it (--listen)",
		Long: `Open the dashboard in a browser.

Where Weir is installed in the cluster of the kubeconfig, it is that one's: a
port of this machine is forwarded to it until interrupted. Otherwise it is what
` + "`weir demo`" + ` serves, or this command itself when --listen says where: it then serves
the dashboard, with the HTTP API at --api behind it, until interrupted, and
opens nothing.`,
		Example: `  weir dashboard
  weir dashboard --show url
  weir dashboard --listen 127.0.0.1:8084 --api 127.0.0.1:8086`,
		Args: noArgs,
		RunE: d.run,
	}
	cmd.Flags().StringVar(&d.address, "address", "127.0.0.1", "where the dashboard is served, or forwarded from")
	cmd.Flags().Uint16VarP(&d.port, "port", "p", 8084, "its port")
	cmd.Flags().StringVar(&d.show, "show", "dashboard", "what to do with it: dashboard (open it) or url (only print it)")
	cmd.Flags().StringVar(&d.listen, "listen", "", "serve the dashboard on this address, host:port, instead of opening it")
	cmd.Flags().StringVar(&d.api, "api", "127.0.0.1:8086", "with --listen: the HTTP API to read from, host:port or URL")
	return cmd
}

func (d *dashboardCommand) run(cmd *cobra.Command, _ []string) error {
	changed := cmd.Flags().Changed
	if d.listen != "" {
		if changed("address") || changed("port") || changed("show") {
			return Usagef(cmd, "--address, --port and --show are for opening the dashboard, --listen is for serving it")
		}
		return d.serve(cmd)
	}
	if changed("api") {
		return Usagef(cmd, "--api needs --listen: it says what a dashboard served here reads from")
	}
	if d.show != "dashboard" && d.show != "url" {
		return Usagef(cmd, "--show %q: must be dashboard or url", d.show)
	}
	k, why := d.findAPI(cmd.Context())
	if why == nil {
		return d.forward(cmd.Context(), k, changed("port"))
	}
	if d.cluster.given() {
		return why
	}
	at := "http://" + net.JoinHostPort(d.address, strconv.Itoa(int(d.port)))
	if err := probe(cmd.Context(), at); err != nil {
		return fmt.Errorf("cannot reach the dashboard at %s: %w; start it with `weir demo` or `weir dashboard --listen`, or set --address and --port", at, err)
	}
	return d.present(cmd.Context(), at)
}

// present says where the dashboard is, and opens it if asked to.
func (d *dashboardCommand) present(ctx context.Context, at string) error {
	if _, err := fmt.Fprintln(d.Streams.Out, at); err != nil || d.show == "url" {
		return err
	}
	if err := d.open(ctx, at); err != nil {
		d.notef("Open it in a browser: %v.", err)
	}
	return nil
}

// forward serves the cluster's dashboard on a port of this machine until ctx
// ends: on another one than asked for where that is taken and was not given.
func (d *dashboardCommand) forward(ctx context.Context, k *kubeCluster, given bool) error {
	l, err := net.Listen("tcp", net.JoinHostPort(d.address, strconv.Itoa(int(d.port))))
	if inUse(err) && !given {
		l, err = net.Listen("tcp", net.JoinHostPort(d.address, "0"))
	}
	if err != nil {
		return fmt.Errorf("cannot forward the dashboard: %w; --address and --port take another place", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- k.forwardListener(ctx, l, componentAPI, portWeb, portWebDefault) }()
	at := "http://" + l.Addr().String()
	if err = probe(ctx, at); err != nil {
		err = fmt.Errorf("cannot reach the dashboard of %s: %w; `weir check` says what is wrong there", k, err)
	} else if err = d.present(ctx, at); err == nil {
		d.notef("Forwarding the dashboard of %s until interrupted.", k)
		return <-ended
	}
	cancel()
	if stopped := <-ended; err == nil && !errors.Is(stopped, context.Canceled) {
		err = stopped
	}
	return err
}

func (d *dashboardCommand) serve(cmd *cobra.Command) error {
	if _, _, err := net.SplitHostPort(d.listen); err != nil {
		return Usagef(cmd, "--listen %q is not host:port", d.listen)
	}
	raw := d.api
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	api, err := url.Parse(raw)
	if err != nil || api.Host == "" || api.Scheme != "http" && api.Scheme != "https" {
		return Usagef(cmd, "--api %q is neither host:port nor a URL with http or https", d.api)
	}
	if d.ServeDashboard == nil {
		return errors.New("cannot serve the dashboard: this program was built without it")
	}
	return d.ServeDashboard(cmd.Context(), api, d.listen)
}

// probe tells whether an HTTP server answers.
func probe(ctx context.Context, at string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	// One request: a connection kept would only linger.
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// inUse tells that another process listens there.
func inUse(err error) bool {
	const wsaeaddrinuse = syscall.Errno(10048) // the package has no name for it
	return errors.Is(err, syscall.EADDRINUSE) || runtime.GOOS == "windows" && errors.Is(err, wsaeaddrinuse)
}

// openBrowser asks the desktop to show a URL.
func openBrowser(ctx context.Context, at string) error {
	name, args := "xdg-open", []string{at}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", at}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("there is no %s here", name)
	}
	if err := exec.CommandContext(ctx, path, args...).Run(); err != nil {
		return fmt.Errorf("%s failed: %w", name, err)
	}
	return nil
}
