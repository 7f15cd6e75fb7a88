// Package chart is Weir's Helm chart, and renders it as Helm would. The chart
// is the one source of what is installed: `helm install` takes this folder,
// `weir install` renders the copy that is embedded in it.
package chart

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	helm "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/deploy/values"
)

//go:embed Chart.yaml values.yaml values.schema.json .helmignore templates/*.yaml templates/_helpers.tpl
var files embed.FS

// Release is the name of an installation among Helm's releases; `weir install`
// writes it where Helm would.
const Release = "weir"

// Object is one manifest of an installation.
type Object struct {
	APIVersion, Kind string
	// Namespace is empty for what belongs to the cluster.
	Namespace, Name string
	// YAML is the manifest, without separator.
	YAML string
}

// String names the object as kubectl does.
func (o Object) String() string {
	name := strings.ToLower(o.Kind) + "/" + o.Name
	if o.Namespace == "" {
		return name
	}
	return name + " -n " + o.Namespace
}

// Load reads the embedded chart, as of a version of Weir.
func Load(version string) (*helm.Chart, error) {
	var buffered []*loader.BufferedFile
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := files.ReadFile(path)
		buffered = append(buffered, &loader.BufferedFile{Name: path, Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the chart: %w", err)
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("cannot read the chart: %w", err)
	}
	c.Metadata.AppVersion = version
	return c, nil
}

// Render renders an installation in a namespace, of a version of Weir, in the
// order in which it must be applied. The same arguments give the same bytes,
// unless v says nothing of the issuer: one is then made.
func Render(v *values.Values, namespace, version string) ([]Object, error) {
	c, err := Load(version)
	if err != nil {
		return nil, err
	}
	// What the schema holds values against is JSON.
	given, err := asJSON(v)
	if err != nil {
		return nil, err
	}
	all, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: Release, Namespace: namespace, Revision: 1, IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, fmt.Errorf("cannot render the chart: %w", err)
	}
	all["Release"].(map[string]any)["Service"] = "weir"
	rendered, err := engine.Render(c, all)
	if err != nil {
		return nil, fmt.Errorf("cannot render the chart: %w", err)
	}
	for name := range rendered {
		if strings.HasSuffix(name, ".tpl") {
			delete(rendered, name)
		}
	}
	_, manifests, err := releaseutil.SortManifests(rendered, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, fmt.Errorf("cannot read what the chart renders: %w", err)
	}
	objects := make([]Object, 0, len(manifests))
	for _, m := range manifests {
		o, err := parse(m.Content)
		if err != nil {
			return nil, fmt.Errorf("cannot read what %s renders: %w", m.Name, err)
		}
		objects = append(objects, o)
	}
	slices.SortStableFunc(objects, func(a, b Object) int { return late(a) - late(b) })
	return objects, nil
}

// late puts the webhooks at the end: pods must not be sent to one that is not
// there yet.
func late(o Object) int {
	if o.Kind == "MutatingWebhookConfiguration" {
		return 1
	}
	return 0
}

func asJSON(v *values.Values) (map[string]any, error) {
	text, err := yaml.Marshal(v.Map())
	if err != nil {
		return nil, fmt.Errorf("cannot write the values: %w", err)
	}
	m, err := chartutil.ReadValues(text)
	if err != nil {
		return nil, fmt.Errorf("cannot write the values: %w", err)
	}
	return m, nil
}

var blank = regexp.MustCompile(`(?m)^[ \t]*\n|[ \t]+$`)

func parse(text string) (Object, error) {
	var head struct {
		APIVersion string
		Kind       string
		Metadata   struct{ Name, Namespace string }
	}
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		return Object{}, err
	}
	if head.Kind == "" || head.Metadata.Name == "" {
		return Object{}, fmt.Errorf("there is no object in %q", text)
	}
	return Object{
		APIVersion: head.APIVersion, Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name,
		YAML: strings.TrimSpace(blank.ReplaceAllString(text, "")) + "\n",
	}, nil
}

// Text puts objects into one file.
func Text(objects []Object) []byte {
	var b strings.Builder
	for _, o := range objects {
		b.WriteString("---\n")
		b.WriteString(o.YAML)
	}
	return []byte(b.String())
}
