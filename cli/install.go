package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	kubemetadata "k8s.io/client-go/metadata"

	"github.com/weirmesh/weir/deploy"
	"github.com/weirmesh/weir/deploy/authority"
	"github.com/weirmesh/weir/deploy/chart"
)

// lookTimeout bounds how long the cluster may take to say what it has.
const lookTimeout = 20 * time.Second

// installCommand is `weir install` and `weir upgrade`.
type installCommand struct {
	*app
	upgrade bool

	files, sets               []string
	ha, ignoreCluster, dry    bool
	reset, lose               bool
	anchors, certificate, key string
}

const installLong = `Print the manifests of Weir's control plane, for kubectl apply.

The values are those of the chart (docs/install.md lists them); -f and --set change
them. The cluster is only read: a certificate authority that it has is kept, else
one is made, so that applying twice changes nothing. Where Weir is installed
already with other values, nothing is printed: weir upgrade changes them.`

func newInstall(a *app) *cobra.Command {
	i := &installCommand{app: a}
	cmd := &cobra.Command{
		Use: "install", Short: "Print the manifests of the control plane", Long: installLong,
		Example: `  weir install | kubectl apply -f -
  weir install --ha --set bus.storage.size=50Gi | kubectl apply -f -
  weir install -f values.yaml --dry-run`,
		Args: noArgs, RunE: i.run,
	}
	i.flags(cmd)
	cmd.Flags().BoolVar(&i.ignoreCluster, "ignore-cluster", false, "do not look into the cluster: for one that has no Weir, since a new certificate authority is made")
	return cmd
}

func newUpgrade(a *app) *cobra.Command {
	i := &installCommand{app: a, upgrade: true}
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Print the manifests that change or renew an installation",
		Long: `Print the manifests that bring an installation to this version of Weir, for
kubectl apply. Its values stay but for what -f and --set change; its certificate
authority stays, too, unless another is brought, and so do its data. What would
lose data is refused.`,
		Example: `  weir upgrade | kubectl apply -f -
  weir upgrade --set proxy.logLevel=debug | kubectl apply -f -`,
		Args: noArgs, RunE: i.run,
	}
	i.flags(cmd)
	cmd.Flags().BoolVar(&i.reset, "reset-values", false, "begin with the defaults, not with the installation's values")
	cmd.Flags().BoolVar(&i.lose, "lose-history", false, "permit what makes the bus begin anew, as changing highAvailability")
	return cmd
}

func (i *installCommand) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&i.files, "values", "f", nil, "file of values, YAML (-: stdin); may be repeated, later ones win")
	f.StringArrayVar(&i.sets, "set", nil, "a value, KEY=VALUE; may be repeated, and wins over files")
	f.BoolVar(&i.ha, "ha", false, "run every component more than once (highAvailability=true)")
	f.BoolVar(&i.dry, "dry-run", false, "print only the names of what would be applied")
	f.StringVar(&i.anchors, "identity-trust-anchors-file", "", "file of trust anchors, PEM, of your own certificate authority")
	f.StringVar(&i.certificate, "identity-issuer-certificate-file", "", "file of the issuer's certificate, PEM, with those between it and an anchor")
	f.StringVar(&i.key, "identity-issuer-key-file", "", "file of the issuer's private key, PEM")
}

func (i *installCommand) run(cmd *cobra.Command, _ []string) error {
	o := deploy.Options{Namespace: i.cluster.namespace, Version: i.Build.Version, Reset: i.reset, LoseHistory: i.lose}
	var err error
	if o.Given, err = i.given(); err != nil {
		return err
	}
	if o.Issuer, err = i.issuer(cmd); err != nil {
		return err
	}
	if !i.ignoreCluster {
		if o.Found, err = i.look(cmd.Context()); err != nil {
			return err
		}
	}
	build := deploy.Install
	if i.upgrade {
		build = deploy.Upgrade
	}
	objects, err := build(o)
	if err != nil {
		return err
	}
	return i.print(objects, i.dry)
}

// given reads the values of files and flags.
func (i *installCommand) given() (map[string]any, error) {
	var texts [][]byte
	for _, name := range i.files {
		var text []byte
		var err error
		if name == "-" {
			text, err = io.ReadAll(i.Streams.In)
		} else {
			text, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the values: %w", err)
		}
		texts = append(texts, text)
	}
	sets := i.sets
	if i.ha {
		sets = append([]string{"highAvailability=true"}, sets...)
	}
	return deploy.Given(texts, sets)
}

// issuer reads the certificate authority that the user brings; nil for none.
func (i *installCommand) issuer(cmd *cobra.Command) (*authority.Generated, error) {
	if i.anchors == "" && i.certificate == "" && i.key == "" {
		return nil, nil
	}
	if i.anchors == "" || i.certificate == "" || i.key == "" {
		return nil, Usagef(cmd, "--identity-trust-anchors-file, --identity-issuer-certificate-file and --identity-issuer-key-file belong together")
	}
	g := new(authority.Generated)
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{i.anchors, &g.Anchors}, {i.certificate, &g.Certificate}, {i.key, &g.Key}} {
		text, err := os.ReadFile(f.name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the issuer: %w", err)
		}
		*f.to = text
	}
	return g, nil
}

// look reads what the cluster has; where there is no kubeconfig, that is nothing.
func (i *installCommand) look(ctx context.Context) (*deploy.Found, error) {
	cluster, err := i.kube()
	if errors.Is(err, errNoCluster) && !i.upgrade {
		i.notef("There is no kubeconfig: a new certificate authority was made, which only a cluster without Weir should be given.")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found, err := deploy.Look(ctx, cluster, cluster.namespace)
	if err != nil && !i.upgrade {
		return nil, fmt.Errorf("%w; --ignore-cluster does not ask it, for a cluster that has no Weir", err)
	}
	return found, err
}

// print writes manifests, or only their names.
func (a *app) print(objects []chart.Object, names bool) error {
	if !names {
		return a.write(chart.Text(objects))
	}
	var b strings.Builder
	for _, o := range objects {
		b.WriteString(o.String() + "\n")
	}
	return a.write([]byte(b.String()))
}

type uninstallCommand struct {
	*app
	dry bool
}

func newUninstall(a *app) *cobra.Command {
	u := &uninstallCommand{app: a}
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Print all that there is of the control plane, to delete it",
		Long: `Print the names of all that a cluster has of Weir's control plane, for kubectl
delete: also what belongs to no namespace, what the controller has made, and the
bus's volumes. Pods that have a proxy work on without it; weir uninject takes it out.`,
		Example: `  weir uninstall | kubectl delete -f -`,
		Args:    noArgs, RunE: u.run,
	}
	cmd.Flags().BoolVar(&u.dry, "dry-run", false, "print only names")
	return cmd
}

func (u *uninstallCommand) run(cmd *cobra.Command, _ []string) error {
	cluster, err := u.kube()
	if err != nil {
		return err
	}
	client, err := kubemetadata.NewForConfig(cluster.config)
	if err != nil {
		return fmt.Errorf("cannot use the kubeconfig: %w", err)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), lookTimeout)
	defer cancel()
	objects, meshed, err := deploy.Uninstall(ctx, client, cluster.namespace)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return fmt.Errorf("there is nothing of Weir in the namespace %s of %s", cluster.namespace, cluster)
	}
	if meshed > 0 {
		u.notef("%d pods have a proxy still. They work on, without telemetry and certificates of their own from when these end; `weir uninject` takes it out.", meshed)
	}
	return u.print(objects, u.dry)
}
