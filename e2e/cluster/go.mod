module github.com/weirmesh/weir/e2e/cluster

go 1.26.0

require (
	github.com/weirmesh/weir/tools/image v0.0.0
	golang.org/x/sys v0.49.0
)

replace github.com/weirmesh/weir/tools/image => ../../tools/image
