// Package inject adds Weir's sidecar to pods and takes it out again. It is a pure
// function of manifests, or of a pod, and a Config: `weir inject` and the admission
// webhook have the same.
package inject
