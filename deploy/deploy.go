// Package deploy decides what `weir install`, `weir upgrade` and `weir
// uninstall` print: it reads what a cluster has already, keeps what must be
// kept, such as the certificate authority, and has the chart rendered. It
// changes nothing in the cluster: that is kubectl's.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/strvals"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/deploy/authority"
	"github.com/weirmesh/weir/deploy/chart"
	"github.com/weirmesh/weir/deploy/values"
)

// Names of what an installation is known by, in Weir's namespace.
const (
	ConfigMapConfig  = "weir-config"
	ConfigMapAnchors = "weir-trust-anchors"
	SecretIssuer     = "weir-identity-issuer"
)

// Found is what a cluster has of Weir already.
type Found struct {
	// Values and Version are what it was installed with, without the issuer; nil
	// and "" where it is not installed.
	Values  *values.Values
	Version string
	// Helm: Helm manages it.
	Helm bool
	// Issuer is nil where there is none.
	Issuer *authority.Generated
}

// Look reads what a cluster has.
func Look(ctx context.Context, client kubernetes.Interface, namespace string) (*Found, error) {
	f := &Found{}
	config, err := configMap(ctx, client, namespace, ConfigMapConfig)
	if err != nil {
		return nil, err
	}
	if config != nil {
		given, err := Given([][]byte{[]byte(config.Data["values.yaml"])}, nil)
		if err == nil {
			f.Values, err = values.Decode(values.Default(), given)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the ConfigMap %s/%s, which says what Weir was installed with: %w", namespace, ConfigMapConfig, err)
		}
		f.Version = config.Data["version"]
		f.Helm = config.Annotations["meta.helm.sh/release-name"] != ""
	}
	anchors, err := configMap(ctx, client, namespace, ConfigMapAnchors)
	if err != nil {
		return nil, err
	}
	secret, err := client.CoreV1().Secrets(namespace).Get(ctx, SecretIssuer, meta.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return nil, fmt.Errorf("cannot read the Secret %s/%s, Weir's certificate authority: %w", namespace, SecretIssuer, err)
	case anchors != nil:
		f.Issuer = &authority.Generated{
			Anchors: []byte(anchors.Data["ca.crt"]), Certificate: secret.Data[core.TLSCertKey], Key: secret.Data[core.TLSPrivateKeyKey],
		}
	}
	return f, nil
}

func configMap(ctx context.Context, client kubernetes.Interface, namespace, name string) (*core.ConfigMap, error) {
	c, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the ConfigMap %s/%s: %w", namespace, name, err)
	}
	return c, nil
}

// Given merges files of values (YAML) and settings (KEY=VALUE, as Helm's --set);
// later ones win.
func Given(files [][]byte, sets []string) (map[string]any, error) {
	all := map[string]any{}
	for _, text := range files {
		var given map[string]any
		if err := yaml.Unmarshal(text, &given); err != nil {
			return nil, fmt.Errorf("cannot read the values: %w", err)
		}
		merge(all, given)
	}
	for _, set := range sets {
		if err := strvals.ParseInto(set, all); err != nil {
			return nil, fmt.Errorf("cannot read %q: %w; want KEY=VALUE, as bus.storage.size=20Gi", set, err)
		}
	}
	return all, nil
}

func merge(onto, given map[string]any) {
	for key, value := range given {
		inner, ok := value.(map[string]any)
		below, okBelow := onto[key].(map[string]any)
		if ok && okBelow {
			merge(below, inner)
			continue
		}
		onto[key] = value
	}
}

// Options of Install and Upgrade.
type Options struct {
	// Namespace is Weir's own, Version the release to install.
	Namespace, Version string
	// Given are the values that were given, see Given.
	Given map[string]any
	// Issuer is a certificate authority that was brought; may be nil.
	Issuer *authority.Generated
	// Found is what the cluster has; nil where it was not looked at.
	Found *Found
	// Reset has Upgrade begin with the defaults rather than with what is
	// installed, LoseHistory lets it do what makes the bus begin anew.
	Reset, LoseHistory bool
}

// Install returns the objects of an installation. Asked again, of an
// installation with the same values, it returns the same; with others, or of
// another version, it errs: that is Upgrade's.
func Install(o Options) ([]chart.Object, error) {
	v, err := values.Decode(values.Default(), o.Given)
	if err != nil {
		return nil, err
	}
	v.CreateNamespace = true
	if f := o.Found; f != nil && f.Values != nil {
		if f.Helm {
			return nil, fmt.Errorf("weir is installed in the namespace %s by Helm: use helm upgrade", o.Namespace)
		}
		if f.Version != o.Version && v.Images.Tag == "" {
			return nil, fmt.Errorf("weir %s is installed in the namespace %s: weir upgrade makes it %s", f.Version, o.Namespace, o.Version)
		}
		if d := differences(f.Values.Map(), withoutIssuer(v).Map(), ""); len(d) > 0 {
			return nil, fmt.Errorf("weir is installed in the namespace %s with other values; weir upgrade changes them:\n  %s", o.Namespace, strings.Join(d, "\n  "))
		}
	}
	return render(o, v)
}

// Upgrade returns the objects of an installation that is there already, with
// its values but for those that are given, and its certificate authority. What
// would lose data is refused.
func Upgrade(o Options) ([]chart.Object, error) {
	if o.Found == nil || o.Found.Values == nil {
		return nil, fmt.Errorf("weir is not installed in the namespace %s: weir install does that", o.Namespace)
	}
	if o.Found.Helm {
		return nil, fmt.Errorf("weir is installed in the namespace %s by Helm: use helm upgrade", o.Namespace)
	}
	before, base := o.Found.Values, o.Found.Values
	if o.Reset {
		base = values.Default()
	}
	v, err := values.Decode(base, o.Given)
	if err != nil {
		return nil, err
	}
	v.CreateNamespace = true
	if v.HighAvailability != before.HighAvailability && !o.LoseHistory {
		return nil, errors.New("highAvailability: the bus cannot take its history along from one server to three, or back; --lose-history does without it")
	}
	if v.Bus.Storage != before.Bus.Storage {
		return nil, errors.New("bus.storage: Kubernetes does not let a StatefulSet's volumes be changed; enlarge the PersistentVolumeClaims by kubectl, or uninstall and install")
	}
	return render(o, v)
}

func render(o Options, v *values.Values) ([]chart.Object, error) {
	if err := o.authority(v); err != nil {
		return nil, err
	}
	return chart.Render(v, o.Namespace, o.Version)
}

// authority chooses the issuer: the one that was brought, else the cluster's,
// else a new one.
func (o Options) authority(v *values.Values) error {
	if v.Issuer.Existing {
		if o.Issuer != nil {
			return errors.New("issuer.existing says that others make the issuer; then bring none")
		}
		return nil
	}
	g := o.Issuer
	if i := v.Issuer; g == nil && i.Certificate != "" {
		g = &authority.Generated{Anchors: []byte(i.TrustAnchors), Certificate: []byte(i.Certificate), Key: []byte(i.Key)}
	}
	brought := g != nil
	if g == nil && o.Found != nil {
		g = o.Found.Issuer
	}
	if g == nil {
		var err error
		if g, err = authority.Generate(v.TrustDomain); err != nil {
			return err
		}
	}
	if err := authority.Check(g); err != nil {
		if brought {
			return fmt.Errorf("cannot use the issuer: %w", err)
		}
		return fmt.Errorf("cannot go on using the cluster's issuer: %w; bring another with --identity-issuer-certificate-file", err)
	}
	// As they come back from the cluster, whatever they ended in.
	lines := func(pem []byte) string { return strings.TrimSpace(string(pem)) + "\n" }
	v.Issuer.TrustAnchors, v.Issuer.Certificate, v.Issuer.Key = lines(g.Anchors), lines(g.Certificate), lines(g.Key)
	return nil
}

func withoutIssuer(v *values.Values) *values.Values {
	out := *v
	out.Issuer = values.Issuer{}
	return &out
}

// differences says how values are other than they were, by name.
func differences(was, is map[string]any, path string) []string {
	var out []string
	keys := make([]string, 0, len(is))
	for key := range is {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		at := strings.TrimPrefix(path+"."+key, ".")
		inner, ok := is[key].(map[string]any)
		before, okBefore := was[key].(map[string]any)
		switch {
		case ok && okBefore && len(inner) > 0:
			out = append(out, differences(before, inner, at)...)
		case !reflect.DeepEqual(was[key], is[key]):
			out = append(out, fmt.Sprintf("%s is %v, and would be %v", at, plain(was[key]), plain(is[key])))
		}
	}
	return slices.Clip(out)
}

func plain(v any) any {
	if s, ok := v.(string); ok && s == "" {
		return `""`
	}
	return v
}
