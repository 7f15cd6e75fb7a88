package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/template"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/node"
)

//go:embed coredns.yaml
var dns string

// connect makes the client of the API server.
func (c *Cluster) connect() error {
	client, err := c.config.Client()
	if err != nil {
		return err
	}
	client.Transport.(*http.Transport).DialContext = c.DialContext
	c.client = client
	return nil
}

// Get asks the API server for an object, or a list of them, by its path, and
// decodes it into into: /api/v1/namespaces/default/pods.
func (c *Cluster) Get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, node.APIAddress+path, nil)
	if err != nil {
		return fmt.Errorf("cannot get %s: %w", path, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("cannot get %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // the status counts
		return fmt.Errorf("cannot get %s: %s: %s", path, resp.Status, text)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("cannot get %s: %w", path, err)
	}
	return nil
}

// Until calls try every tenth of a second until it returns nil, ctx ends or the
// cluster does; it then errs with try's last error.
func (c *Cluster) Until(ctx context.Context, what string, try func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		case <-c.Done():
			return fmt.Errorf("waited until %s: %w", what, errEnded)
		case <-tick.C:
		}
	}
}

// awaitRuntime waits for containerd, which is up long before the API server.
func (c *Cluster) awaitRuntime(ctx context.Context) error {
	return c.Until(ctx, "containerd answers", func() error {
		out, err := c.NodeCommand(ctx, "ctr", "version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// awaitReady waits for the node, for pods being admitted, and for DNS.
func (c *Cluster) awaitReady(ctx context.Context, began time.Time) error {
	since := func(what string) { c.o.Logger.Debug(what, "after", time.Since(began).Round(10*time.Millisecond)) }
	if err := c.Until(ctx, "the API server is ready", func() error {
		var kinds struct{ Kind string }
		return c.Get(ctx, "/api/v1", &kinds)
	}); err != nil {
		return err
	}
	since("API server ready")
	t, err := template.New("coredns.yaml").Parse(dns)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, c.config); err != nil {
		return err
	}
	if err := c.Until(ctx, "the API server takes the DNS's manifests", func() error {
		return c.Apply(ctx, text.String())
	}); err != nil {
		return err
	}
	if err := c.makeStorage(ctx); err != nil {
		return err
	}
	if err := c.Until(ctx, "the node is ready", func() error { return c.nodeReady(ctx) }); err != nil {
		return err
	}
	since("node ready")
	// Without it bare pods are refused.
	if err := c.Until(ctx, "there is a default ServiceAccount", func() error { return c.NamespaceReady(ctx, "default") }); err != nil {
		return err
	}
	since("default ServiceAccount")
	if err := c.Until(ctx, "DNS answers", func() error {
		var d struct {
			Status struct{ AvailableReplicas int }
		}
		if err := c.Get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &d); err != nil {
			return err
		}
		if d.Status.AvailableReplicas == 0 {
			return errors.New("no pod of coredns is available")
		}
		return nil
	}); err != nil {
		return err
	}
	since("DNS ready")
	return nil
}

// NamespaceReady errs until bare pods can be made in a namespace, which takes its
// default ServiceAccount.
func (c *Cluster) NamespaceReady(ctx context.Context, namespace string) error {
	var account struct{ Kind string }
	return c.Get(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/default", &account)
}

// nodeReady errs until the node is.
func (c *Cluster) nodeReady(ctx context.Context) error {
	var n struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.Get(ctx, "/api/v1/nodes/"+node.Name, &n); err != nil {
		return err
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return errors.New(condition.Message)
		}
	}
	return errors.New("it has not said how it is")
}
