package main

import (
	"time"

	"github.com/spf13/cobra"
)

// settled is when a component has started.
const settled = 5 * time.Second

// trimmed wraps a component's command: once it has started, what of the program
// was only needed for that goes out of its memory.
func trimmed(cmds ...*cobra.Command) []*cobra.Command {
	for _, cmd := range cmds {
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			timer := time.AfterFunc(settled, dropText)
			defer timer.Stop()
			return run(cmd, args)
		}
	}
	return cmds
}
