package main

import (
	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/resident"
)

// trimmed wraps a component's command: what of the program is not in use goes out
// of its memory, from its start on.
func trimmed(cmds ...*cobra.Command) []*cobra.Command {
	for _, cmd := range cmds {
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			defer resident.Keep()()
			return run(cmd, args)
		}
	}
	return cmds
}
