package cli

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
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
		Short: "Show the version of this program and of the API server",
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
	if !v.clientOnly {
		c, err := v.dial(cmd.Context())
		if err != nil {
			// Not knowing the server's is an answer, too.
			v.notef("%v", err)
		} else {
			defer func() { _ = c.Close() }()
			s := c.Server()
			theirs = &versionJSON{Version: s.GetVersion(), Commit: s.GetCommit(), GoVersion: s.GetGoVersion()}
		}
	}
	if v.output == outputJSON {
		out := map[string]*versionJSON{"client": &mine}
		if !v.clientOnly {
			out["server"] = theirs
		}
		data, err := json.MarshalIndent(out, "", "  ")
		if err != nil {
			return fmt.Errorf("cannot encode the output: %w", err)
		}
		return v.write(append(data, '\n'))
	}
	var out bytes.Buffer
	v.line(&out, "Client", &mine)
	if !v.clientOnly {
		v.line(&out, "Server", theirs)
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
