package injector

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/weirmesh/weir/deploy/inject"
)

// pollFiles is how often the files are looked at. The kubelet takes a minute to
// bring a change of a ConfigMap.
const pollFiles = 5 * time.Second

// Files are where the settings of the installation are.
type Files struct {
	// Values and Version are values.yaml and version of the ConfigMap weir-config,
	// Anchors ca.crt of weir-trust-anchors.
	Values, Version, Anchors string
}

// read makes a Config of the files.
func (f Files) read(namespace string) (inject.Config, error) {
	var texts [3][]byte
	for i, name := range []string{f.Values, f.Version, f.Anchors} {
		var err error
		if texts[i], err = os.ReadFile(name); err != nil {
			return inject.Config{}, fmt.Errorf("cannot read the settings of injection: %w", err)
		}
	}
	c, err := inject.ParseValues(texts[0], inject.Installation{
		Namespace: namespace, Version: strings.TrimSpace(string(texts[1])), TrustAnchors: string(texts[2]),
	})
	if err != nil {
		return inject.Config{}, fmt.Errorf("%s: %w", f.Values, err)
	}
	return c, nil
}

// watchFiles reads the files again until ctx ends. What cannot be read changes
// nothing.
func (s *Server) watchFiles(ctx context.Context) {
	tick := time.NewTicker(pollFiles)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c, err := s.o.Files.read(s.o.Namespace)
		if err != nil {
			if err.Error() != said {
				said = err.Error()
				s.log.Warn("cannot read the settings anew; those of before are used on", "error", err)
			}
			continue
		}
		said = ""
		if c != *s.config.Load() {
			s.config.Store(&c)
			s.log.Info("the settings of injection changed")
		}
	}
}
