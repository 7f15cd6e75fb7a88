package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/deploy/inject"
)

// Where an installation keeps what injection needs, in Weir's namespace.
const (
	configMapConfig  = "weir-config"
	configKeyValues  = "values.yaml"
	configKeyVersion = "version"
	configMapAnchors = "weir-trust-anchors"
	configKeyAnchors = "ca.crt"
)

type injectCommand struct {
	*app
	valuesFile    string
	ignoreCluster bool
	// settings are the values of flags, by name.
	settings map[string]*string
}

func newInject(a *app) *cobra.Command {
	i := &injectCommand{app: a, settings: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "inject (FILE | FOLDER | URL | -)...",
		Short: "Add the proxy to the pods of manifests",
		Long: `Add the proxy to the pods of manifests, YAML or JSON, and print them. All else in
them stays as it is. What was done is said on stderr.

Deployments, DaemonSets, StatefulSets, ReplicaSets, ReplicationControllers, Jobs,
CronJobs and Pods are injected; namespaces are annotated, so that the webhook
injects pods in them. The settings are those of the installation in the cluster,
changed by annotations (weir.dev/NAME) and by flags.`,
		Example: `  weir inject app.yml | kubectl apply -f -
  kubectl get deploy -o yaml | weir inject - | kubectl apply -f -
  weir inject --skip-outbound-ports 3306 https://example.org/app.yml`,
		RunE: i.run,
	}
	f := cmd.Flags()
	f.StringVar(&i.valuesFile, "values", "", "take the installation's settings from this file of the chart's values, not from the cluster")
	f.BoolVar(&i.ignoreCluster, "ignore-cluster", false, "do not ask the cluster: take the defaults, without identity")
	for _, s := range inject.Settings() {
		v := new(string)
		i.settings[s.Name] = v
		f.StringVar(v, s.Name, "", "`"+s.Value+"`: "+s.Usage)
		if s.Value == "true|false" {
			f.Lookup(s.Name).NoOptDefVal = "true"
		}
	}
	return cmd
}

func newUninject(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "uninject (FILE | FOLDER | URL | -)...",
		Short: "Take the proxy out of the pods of manifests",
		Long: `Take out of manifests what weir inject added, and print them. All else in them
stays as it is. What was done is said on stderr.`,
		Example: `  kubectl get deploy -o yaml | weir uninject - | kubectl apply -f -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.transform(cmd, args, inject.Uninject)
		},
	}
}

func (i *injectCommand) run(cmd *cobra.Command, args []string) error {
	o := inject.Options{Flags: map[string]string{}, By: "weir/cli " + i.Build.Version}
	for name, value := range i.settings {
		if cmd.Flags().Changed(name) {
			c := inject.Defaults()
			if err := c.Set(name, *value); err != nil {
				return Usagef(cmd, "--%s %w", name, err)
			}
			o.Flags[name] = *value
		}
	}
	if i.ignoreCluster && i.valuesFile != "" {
		return Usagef(cmd, "--ignore-cluster and --values exclude each other: give one of them")
	}
	if len(args) == 0 {
		return Usagef(cmd, "what is to be injected? Give a file, a folder, a URL, or - for stdin")
	}
	var err error
	if o.Config, err = i.config(cmd.Context()); err != nil {
		return err
	}
	return i.transform(cmd, args, func(manifests []byte) ([]byte, []inject.Report, error) {
		return inject.Inject(manifests, o)
	})
}

// config is the installation's, or that of a file, or the default.
func (i *injectCommand) config(ctx context.Context) (inject.Config, error) {
	at := inject.Installation{Namespace: i.cluster.namespace, Version: i.Build.Version}
	switch {
	case i.valuesFile != "":
		text, err := os.ReadFile(i.valuesFile)
		if err != nil {
			return inject.Config{}, fmt.Errorf("cannot read the values: %w", err)
		}
		c, err := inject.ParseValues(text, at)
		if err != nil {
			return inject.Config{}, fmt.Errorf("%s: %w", i.valuesFile, err)
		}
		return c, nil
	case i.ignoreCluster:
		return inject.ParseValues(nil, at)
	}
	c, err := i.clusterConfig(ctx, at)
	if err != nil {
		return inject.Config{}, fmt.Errorf("cannot learn the installation's settings: %w (--values FILE or --ignore-cluster do without the cluster)", err)
	}
	return c, nil
}

// clusterConfig reads what the installation in the cluster has.
func (i *injectCommand) clusterConfig(ctx context.Context, at inject.Installation) (inject.Config, error) {
	cluster, err := i.kube()
	if err != nil {
		return inject.Config{}, err
	}
	read := func(name, key string) (string, error) {
		m, err := cluster.CoreV1().ConfigMaps(at.Namespace).Get(ctx, name, meta.GetOptions{})
		switch {
		case kerrors.IsNotFound(err):
			return "", fmt.Errorf("there is no ConfigMap %s in namespace %s of %s; `weir install | kubectl apply -f -` installs Weir", name, at.Namespace, cluster)
		case err != nil:
			return "", fmt.Errorf("cannot read ConfigMap %s in namespace %s of %s: %w", name, at.Namespace, cluster, err)
		case m.Data[key] == "":
			return "", fmt.Errorf("ConfigMap %s in namespace %s of %s has no %s", name, at.Namespace, cluster, key)
		}
		return m.Data[key], nil
	}
	values, err := read(configMapConfig, configKeyValues)
	if err != nil {
		return inject.Config{}, err
	}
	// Images are of the installation's version, whatever this program's is.
	if at.Version, err = read(configMapConfig, configKeyVersion); err != nil {
		return inject.Config{}, err
	}
	if at.TrustAnchors, err = read(configMapAnchors, configKeyAnchors); err != nil {
		return inject.Config{}, err
	}
	return inject.ParseValues([]byte(values), at)
}

// transform does something with all manifests that args name. Nothing is printed
// unless all of it worked.
func (a *app) transform(cmd *cobra.Command, args []string, do func([]byte) ([]byte, []inject.Report, error)) error {
	if len(args) == 0 {
		return Usagef(cmd, "which manifests? Give a file, a folder, a URL, or - for stdin")
	}
	sources, err := a.manifests(cmd.Context(), args)
	if err != nil {
		return err
	}
	var out []byte
	var reports []inject.Report
	for _, s := range sources {
		text, more, err := do(s.text)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		out = appendManifests(out, text)
		reports = append(reports, more...)
	}
	if err := inject.WriteReports(a.Streams.ErrOut, reports); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return a.write(out)
}

// appendManifests puts manifests behind others, as documents of their own.
func appendManifests(out, text []byte) []byte {
	if len(out) == 0 {
		return text
	}
	if out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	if !strings.HasPrefix(string(text), "---") {
		out = append(out, "---\n"...)
	}
	return append(out, text...)
}
