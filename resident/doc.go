// Package resident keeps a long-running program's resident memory to what it works
// with.
package resident

import "time"

// Settled is when a program has started, for those that then call [DropText].
const Settled = 2 * time.Second
