package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/weirpb"
)

type versionCommand struct {
	*app
	clientOnly, short bool
	output            output
}

func newVersion(a *app) *cobra.Command {
	v := &versionCommand{app: a}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program, of the API server and of the proxies",
		Args:  noArgs,
		RunE:  v.run,
	}
	cmd.Flags().BoolVar(&v.clientOnly, "client", false, "do not ask the server")
	cmd.Flags().BoolVar(&v.short, "short", false, "only the version numbers")
	outputFlag(cmd, &v.output, outputTable, outputJSON)
	return cmd
}

// versionJSON is one build of the JSON output.
type versionJSON struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	GoVersion string `json:"go_version"`
}

func (v *versionCommand) run(cmd *cobra.Command, _ []string) error {
	mine := versionJSON(v.Build)
	var theirs *versionJSON
	var proxies map[string]uint32
	if !v.clientOnly {
		c, err := v.dial(cmd.Context())
		if err != nil {
			// Not knowing the server's is an answer, too.
			v.notef("%v", err)
		} else {
			defer func() { _ = c.Close() }()
			s := c.Server()
			theirs = &versionJSON{Version: s.GetVersion(), Commit: s.GetCommit(), GoVersion: s.GetGoVersion()}
			if mesh, err := c.Mesh(cmd.Context(), &weirpb.MeshRequest{}); err != nil {
				slog.Debug("cannot ask for the versions of proxies", "error", err)
			} else {
				proxies = mesh.GetProxyVersions()
			}
		}
	}
	if v.output == outputJSON {
		out := map[string]any{"client": &mine}
		if !v.clientOnly {
			out["server"] = theirs
		}
		if proxies != nil {
			out["proxies"] = proxies
		}
		data, err := renderOne(out)
		if err != nil {
			return err
		}
		return v.write(data)
	}
	var out bytes.Buffer
	v.line(&out, "Client", &mine)
	if !v.clientOnly {
		v.line(&out, "Server", theirs)
		v.proxies(&out, proxies)
	}
	return v.write(out.Bytes())
}

func (v *versionCommand) line(out *bytes.Buffer, who string, b *versionJSON) {
	version := "unavailable"
	if b != nil {
		version = b.Version
	}
	if v.short {
		fmt.Fprintln(out, version)
		return
	}
	fmt.Fprintf(out, "%s version: %s", who, version)
	if b != nil && b.Commit != "" {
		fmt.Fprintf(out, " (%s, %s)", b.Commit, b.GoVersion)
	}
	fmt.Fprintln(out)
}

// proxies says of which version the proxies in Kubernetes are, if there are any.
func (v *versionCommand) proxies(out *bytes.Buffer, versions map[string]uint32) {
	var all []string
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		if v.short {
			fmt.Fprintln(out, printable(version))
			continue
		}
		n := int(versions[version])
		all = append(all, fmt.Sprintf("%s (%d %s)", printable(version), n, plural(n, "proxy", "proxies")))
	}
	if len(all) > 0 {
		fmt.Fprintf(out, "Data plane version: %s\n", strings.Join(all, ", "))
	}
}
