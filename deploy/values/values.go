// Package values is everything that an installation of Weir may be told: one
// typed struct, which the chart's values.yaml and values.schema.json are
// generated from, `weir install` checks what it is given against, and the
// injector reads what concerns the proxies from. No setting is declared
// elsewhere.
//
// The tags of a field are its whole definition: json is its name, doc what it
// does, and form, enum, min and max what it may be.
package values

import "time"

// Values are the values of the chart. The zero value is not useful; see Default.
type Values struct {
	ClusterName      string          `json:"clusterName" form:"name" doc:"Name of this cluster in subjects and events; clusters that share a bus need different ones."`
	ClusterDomain    string          `json:"clusterDomain" form:"domain" doc:"The cluster's DNS domain."`
	TrustDomain      string          `json:"trustDomain" form:"domain" doc:"SPIFFE trust domain of the identities that Weir certifies."`
	HighAvailability bool            `json:"highAvailability" doc:"Run every component three times (the controller and the API twice), spread over nodes; the bus keeps each message on three servers. It cannot be changed without losing the history on the bus."`
	CreateNamespace  bool            `json:"createNamespace" doc:"Render the namespace, too. weir install does; with Helm, use --create-namespace."`
	Verbose          bool            `json:"verbose" doc:"Have every component log more."`
	Images           Images          `json:"images" doc:"The images of the components and of the proxy."`
	Bus              Bus             `json:"bus" doc:"The bus: NATS with the streams of events and statistics."`
	Aggregator       Aggregator      `json:"aggregator" doc:"The aggregators, which fold events into statistics."`
	Controller       Component       `json:"controller" doc:"The controller: identity, discovery, injection."`
	API              Component       `json:"api" doc:"The query API and the dashboard."`
	Injector         Injector        `json:"injector" doc:"The admission webhook that injects proxies."`
	Proxy            Proxy           `json:"proxy" doc:"What proxies are injected with; annotations weir.dev/… override most of it for a pod or namespace."`
	Scheduling       Scheduling      `json:"scheduling" doc:"Where the components' pods may run."`
	NetworkPolicies  NetworkPolicies `json:"networkPolicies" doc:"Who may reach the components."`
	Issuer           Issuer          `json:"issuer" doc:"The certificate authority. Left empty, weir install makes one and later keeps it; Helm does so by itself. These never go into the ConfigMap weir-config."`
}

// Images names images: REGISTRY/weir:TAG and REGISTRY/weir-proxy:TAG.
type Images struct {
	Registry    string   `json:"registry" form:"registry" doc:"Where the images are."`
	Tag         string   `json:"tag" form:"tag" doc:"Their tag; empty means the chart's version."`
	PullPolicy  string   `json:"pullPolicy" enum:"Always,IfNotPresent,Never" doc:"When the components' images are pulled."`
	PullSecrets []string `json:"pullSecrets" form:"name" doc:"Secrets in Weir's namespace with which to pull the components' images."`
}

// Amount is how much of a resource is asked for and allowed.
type Amount struct {
	Request string `json:"request" form:"quantity" doc:"What is set aside for it; empty for nothing."`
	Limit   string `json:"limit" form:"quantity" doc:"The most it may take; empty for any."`
}

// Resources of a container.
type Resources struct {
	CPU    Amount `json:"cpu" doc:"CPU, as 100m or 1."`
	Memory Amount `json:"memory" doc:"Memory, as 64Mi."`
}

// Component is what every component may be told.
type Component struct {
	Replicas  int       `json:"replicas" min:"0" max:"16" doc:"How many; 0 leaves it to highAvailability."`
	Resources Resources `json:"resources" doc:"Its container's resources."`
}

// Bus is the embedded NATS.
type Bus struct {
	Resources       Resources `json:"resources" doc:"Its container's resources."`
	Storage         Storage   `json:"storage" doc:"Where the streams are kept."`
	EventsMaxAge    string    `json:"eventsMaxAge" form:"duration" doc:"How long raw events are kept."`
	EventsMaxBytes  string    `json:"eventsMaxBytes" form:"size" doc:"How many bytes of raw events are kept."`
	RollupsMaxBytes string    `json:"rollupsMaxBytes" form:"size" doc:"How many bytes of statistics are kept, of each step."`
	Rollups1sAge    string    `json:"rollups1sAge" form:"duration" doc:"How long statistics are kept in steps of 1 s."`
	Rollups10sAge   string    `json:"rollups10sAge" form:"duration" doc:"How long they are kept in steps of 10 s."`
	Rollups1mAge    string    `json:"rollups1mAge" form:"duration" doc:"How long they are kept in steps of 1 min."`
}

// Storage is the bus's volume.
type Storage struct {
	Persistent bool   `json:"persistent" doc:"Use a PersistentVolumeClaim; without, a restart of the bus forgets the history."`
	Size       string `json:"size" form:"quantity" doc:"The volume's size; it must hold eventsMaxBytes and three times rollupsMaxBytes."`
	Class      string `json:"class" form:"class" doc:"The StorageClass; empty means the cluster's default."`
}

// Aggregator is the aggregators.
type Aggregator struct {
	Replicas  int       `json:"replicas" min:"0" max:"16" doc:"How many; 0 leaves it to highAvailability. They share the work."`
	Memory    string    `json:"memory" form:"size" doc:"How much memory each works with; where statistics take more, older windows get coarser. Below resources.memory.limit."`
	Resources Resources `json:"resources" doc:"Its container's resources."`
}

// Injector is the webhook.
type Injector struct {
	Enabled       bool   `json:"enabled" doc:"Inject pods as they are created, where weir.dev/inject: enabled asks for it."`
	FailurePolicy string `json:"failurePolicy" enum:"Ignore,Fail" doc:"What happens to such pods while no controller answers: Ignore starts them without a proxy, Fail refuses them."`
}

// Proxy is what the proxies are injected with.
type Proxy struct {
	LogLevel          string    `json:"logLevel" enum:"debug,info,warn,error" doc:"What proxies log."`
	LogFormat         string    `json:"logFormat" enum:"text,json" doc:"The form of their log."`
	PullPolicy        string    `json:"pullPolicy" enum:"Always,IfNotPresent,Never" doc:"When the proxy's image is pulled."`
	NativeSidecar     bool      `json:"nativeSidecar" doc:"Run the proxy as an init container that goes on (Kubernetes 1.29 or newer): Jobs end, and it starts before and ends after the application."`
	RequireMTLS       bool      `json:"requireMTLS" doc:"Refuse connections from pods without a proxy, probes excepted."`
	SkipInboundPorts  string    `json:"skipInboundPorts" form:"ports" doc:"Ports of the pod that bypass the proxy, as 25,8000-9000."`
	SkipOutboundPorts string    `json:"skipOutboundPorts" form:"ports" doc:"Ports of others that bypass the proxy."`
	SkipSubnets       string    `json:"skipSubnets" form:"subnets" doc:"Addresses of others that bypass the proxy, as 192.0.2.0/24,2001:db8::/32."`
	OpaquePorts       string    `json:"opaquePorts" form:"ports" doc:"Ports whose connections are carried undetected."`
	DrainDelay        string    `json:"drainDelay" form:"duration" doc:"How long a proxy that is told to end goes on accepting connections."`
	DrainTimeout      string    `json:"drainTimeout" form:"duration" doc:"How long it then lets open connections and requests under way finish."`
	Spool             string    `json:"spool" form:"quantity" doc:"Size of a volume in memory in which events outlive a restart of the proxy; empty for none."`
	Resources         Resources `json:"resources" doc:"The proxy's resources."`
}

// Scheduling places pods.
type Scheduling struct {
	NodeSelector map[string]string `json:"nodeSelector" doc:"Labels that nodes must have."`
	Tolerations  []map[string]any  `json:"tolerations" doc:"Taints that are tolerated, as in a pod."`
	Priority     int               `json:"priority" min:"0" max:"1000000000" doc:"The value of the PriorityClass weir-control-plane; 0 for none."`
}

// NetworkPolicies of Weir's namespace.
type NetworkPolicies struct {
	Enabled    bool     `json:"enabled" doc:"Let only those reach a component who need it: everyone the bus, the API server the webhook."`
	Namespaces []string `json:"namespaces" form:"name" doc:"Namespaces whose pods may reach the API, the dashboard and the metrics, such as that of Prometheus."`
}

// Issuer is the certificate authority, PEM.
type Issuer struct {
	Existing     bool   `json:"existing" doc:"The Secret weir-identity-issuer and the ConfigMap weir-trust-anchors are made by others, as cert-manager; the chart has neither."`
	TrustAnchors string `json:"trustAnchors" doc:"Certificates that every proxy trusts."`
	Certificate  string `json:"certificate" doc:"The issuer's certificate, and those between it and an anchor."`
	Key          string `json:"key" doc:"Its private key."`
}

// Default returns the values of an installation that says nothing.
func Default() *Values {
	age := func(d time.Duration) string { return short(d) }
	return &Values{
		ClusterName: "local", ClusterDomain: "cluster.local", TrustDomain: "cluster.local",
		Images: Images{Registry: "ghcr.io/weirmesh", PullPolicy: "IfNotPresent", PullSecrets: []string{}},
		Bus: Bus{
			Resources:    Resources{CPU: Amount{Request: "50m"}, Memory: Amount{Request: "64Mi", Limit: "1Gi"}},
			Storage:      Storage{Persistent: true, Size: "10Gi"},
			EventsMaxAge: age(time.Hour), EventsMaxBytes: "4GiB", RollupsMaxBytes: "1GiB",
			Rollups1sAge: age(15 * time.Minute), Rollups10sAge: age(6 * time.Hour), Rollups1mAge: age(7 * 24 * time.Hour),
		},
		Aggregator: Aggregator{
			Memory:    "256MiB",
			Resources: Resources{CPU: Amount{Request: "50m"}, Memory: Amount{Request: "64Mi", Limit: "384Mi"}},
		},
		Controller: Component{Resources: Resources{CPU: Amount{Request: "20m"}, Memory: Amount{Request: "48Mi", Limit: "512Mi"}}},
		API:        Component{Resources: Resources{CPU: Amount{Request: "20m"}, Memory: Amount{Request: "48Mi", Limit: "512Mi"}}},
		Injector:   Injector{Enabled: true, FailurePolicy: "Ignore"},
		Proxy: Proxy{
			LogLevel: "info", LogFormat: "text", PullPolicy: "IfNotPresent", NativeSidecar: true, DrainDelay: "1s", DrainTimeout: "30s",
			OpaquePorts: "25,587,3306,4222,4444,5432,6222,6379,7422,9300,11211",
			Resources:   Resources{CPU: Amount{Request: "10m"}, Memory: Amount{Request: "16Mi", Limit: "256Mi"}},
		},
		Scheduling:      Scheduling{NodeSelector: map[string]string{}, Tolerations: []map[string]any{}, Priority: 1_000_000},
		NetworkPolicies: NetworkPolicies{Enabled: true, Namespaces: []string{}},
	}
}

// short writes whole hours as 1h rather than as 1h0m0s.
func short(d time.Duration) string {
	if d%time.Hour == 0 {
		return d.Truncate(time.Hour).String()[:len(d.String())-len("0m0s")]
	}
	if d%time.Minute == 0 {
		return d.String()[:len(d.String())-len("0s")]
	}
	return d.String()
}
