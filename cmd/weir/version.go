package main

import (
	"runtime"
	"runtime/debug"

	"github.com/weirmesh/weir/cli"
)

// version and commit are set by the linker: -X main.version=v0.1.0.
var version, commit string

// buildInfo is what the linker was told, else what the Go toolchain noted.
func buildInfo() cli.Build {
	b := cli.Build{Version: version, Commit: commit, GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if b.Version == "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "dev"
	}
	if b.Commit == "" {
		b.Commit = revision(info)
	}
	return b
}

// revision is the commit, with a mark where files were changed since.
func revision(info *debug.BuildInfo) string {
	var hash, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			hash = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if hash == "" {
		return ""
	}
	return hash + dirty
}
