package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/weirmesh/weir/e2e/cluster/node"
)

//go:embed storage.yaml
var storage string

// volumes is how many claims can be met while a cluster is up.
const volumes = 24

// makeStorage gives the cluster volumes for claims that name no class.
func (c *Cluster) makeStorage(ctx context.Context) error {
	type folder struct{ Name, Path string }
	data := struct {
		Node    string
		Folders []folder
	}{Node: node.Name}
	for n := range volumes {
		f := folder{Name: fmt.Sprintf("folder-%d", n+1)}
		f.Path = filepath.Join(c.config.Dir, "volumes", f.Name)
		if err := os.MkdirAll(f.Path, 0o755); err != nil {
			return fmt.Errorf("cannot make a volume: %w", err)
		}
		data.Folders = append(data.Folders, f)
	}
	t, err := template.New("storage.yaml").Parse(storage)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, data); err != nil {
		return err
	}
	return c.Until(ctx, "the API server takes the volumes", func() error { return c.Apply(ctx, text.String()) })
}
