package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/resident"
)

// trimmed wraps a component's command: once it has started, what of the program
// was only needed for that goes out of its memory.
func trimmed(cmds ...*cobra.Command) []*cobra.Command {
	for _, cmd := range cmds {
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			timer := time.AfterFunc(resident.Settled, resident.DropText)
			defer timer.Stop()
			return run(cmd, args)
		}
	}
	return cmds
}
