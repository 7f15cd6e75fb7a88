// Package inject adds Weir's sidecar to pods and takes it out again. It is a pure
// function of manifests, or of a pod, and a Config: `weir inject` and the admission
// webhook have the same.
//
// What is to change is a list of operations of JSON Patch (RFC 6902). The webhook
// answers with them; for manifests they are carried out on the text itself, so that
// all that is not Weir's stays as it was written, comments and quotes included. What
// comes of that is read again and compared with what the operations make of the
// document's values; where the text is too involved (a pod template that is reached
// through an alias, say), the document is written anew from its values.
package inject

// Names that injection gives. Those of annotations are whole, as in manifests.
const (
	// Domain is what Weir's annotations begin with, "/" not included.
	Domain = "weir.dev"
	// AnnotationInject says whether pods are to be injected: Enabled or Disabled. It
	// is a label, too: the webhook is asked only of pods, and pods of namespaces,
	// that have it.
	AnnotationInject = Domain + "/inject"
	// AnnotationProxyVersion and AnnotationInjectedBy mark what was injected.
	AnnotationProxyVersion = Domain + "/proxy-version"
	AnnotationInjectedBy   = Domain + "/injected-by"

	// InitContainer redirects the pod's connections; ProxyContainer is the sidecar.
	InitContainer  = "weir-init"
	ProxyContainer = "weir-proxy"
	// IdentityVolume holds the token by which the proxy proves whose it is;
	// SpoolVolume keeps unsent telemetry.
	IdentityVolume = "weir-identity"
	SpoolVolume    = "weir-spool"
)

// Values of AnnotationInject.
const (
	Enabled  = "enabled"
	Disabled = "disabled"
)

// ProxyUID is the user and the group that the sidecar runs as, and no other
// container of a pod may.
const ProxyUID = 1337
