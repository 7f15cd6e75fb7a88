//go:build !linux

package telemetry

import (
	"errors"
	"os"
)

func mapFile(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }
func unmapFile([]byte)                      {}
func reserve(*os.File, int64, int64) error  { return errors.ErrUnsupported }
func release(*os.File, int64, int64)        {}
func lockFile(*os.File) error               { return errors.ErrUnsupported }
