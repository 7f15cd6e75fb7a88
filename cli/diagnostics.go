package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/deploy/inject"
)

const (
	portProxyAdmin        = "weir-admin"
	portProxyAdminDefault = 4191
	// maxMetrics bounds one proxy's metrics, in bytes.
	maxMetrics = 16 << 20
	// metricsTimeout bounds the wait for one proxy.
	metricsTimeout = 10 * time.Second
)

func newDiagnostics(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "diagnostics",
		Aliases: []string{"dg"},
		Short:   "Look into the mesh itself: endpoints, a proxy's metrics, the bus",
		Args:    rejectUnknown,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEndpoints(a), newProxyMetrics(a), newBusDiagnostics(a))
	return cmd
}

type endpointsCommand struct {
	*app
	namespace string
	output    output
}

func newEndpoints(a *app) *cobra.Command {
	e := &endpointsCommand{app: a}
	cmd := &cobra.Command{
		Use:     "endpoints (SERVICE:PORT | IP:PORT)...",
		Aliases: []string{"ep"},
		Short:   "Show what proxies are told of a service's endpoints",
		Long: `Show what the controller tells proxies of the endpoints of services: the pods that
requests are balanced over, and the identity that each has to prove, or why it
has none. SERVICE is a name in the namespace of -n, NAME.NAMESPACE, or a
full one, as NAME.NAMESPACE.svc.cluster.local.`,
		Example: `  weir diagnostics endpoints web:80 -n emojivoto
  weir diagnostics endpoints web-svc.emojivoto.svc.cluster.local:80
  weir diagnostics endpoints 10.96.0.17:80`,
		RunE: e.run,
	}
	cmd.Flags().StringVarP(&e.namespace, "namespace", "n", defaultNamespace, "namespace of services whose name has none")
	outputFlag(cmd, &e.output, outputTable, outputJSON)
	return cmd
}

// endpointJSON is a row of the JSON output.
type endpointJSON struct {
	Namespace   string `json:"namespace"`
	Service     string `json:"service"`
	IP          string `json:"ip"`
	Port        uint32 `json:"port"`
	Workload    string `json:"workload"`
	Pod         string `json:"pod"`
	Node        string `json:"node"`
	Zone        string `json:"zone"`
	Identity    string `json:"identity"`
	Reason      string `json:"reason"`
	Protocol    string `json:"protocol"`
	Opaque      bool   `json:"opaque"`
	Terminating bool   `json:"terminating"`
}

func (e *endpointsCommand) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Usagef(cmd, "endpoints of what? Give SERVICE:PORT or IP:PORT")
	}
	ctx := cmd.Context()
	var addresses []string
	for _, arg := range args {
		host, port, err := net.SplitHostPort(arg)
		number, numberErr := strconv.ParseUint(port, 10, 16)
		if err != nil || numberErr != nil || number == 0 || host == "" {
			return Usagef(cmd, "%q is neither SERVICE:PORT nor IP:PORT", arg)
		}
		if _, err := netip.ParseAddr(host); err == nil {
			addresses = append(addresses, arg)
			continue
		}
		found, err := e.lookUp(ctx, host, uint16(number))
		if err != nil {
			return err
		}
		addresses = append(addresses, found...)
	}
	c, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	rows, err := e.ask(ctx, c, addresses)
	if err != nil {
		return err
	}
	if e.output == outputJSON {
		out, err := renderJSON(rows)
		if err != nil {
			return err
		}
		return e.write(out)
	}
	if len(rows) == 0 {
		return nil
	}
	t := &table{left: 6}
	t.add("NAMESPACE", "IP", "PORT", "POD", "SERVICE", "IDENTITY")
	for _, r := range rows {
		identity := r.Identity
		if identity == "" {
			identity = "none (" + orNone(r.Reason) + ")"
		}
		if r.Terminating {
			identity += ", terminating"
		}
		t.add(orNone(r.Namespace), r.IP, fmt.Sprint(r.Port), orNone(r.Pod), orNone(r.Service), identity)
	}
	return e.write(t.render())
}

// lookUp finds the addresses that applications connect to for a service: its
// own, or each pod's where it has none.
func (e *endpointsCommand) lookUp(ctx context.Context, host string, port uint16) ([]string, error) {
	k, err := e.kube()
	if err != nil {
		return nil, fmt.Errorf("cannot look up the service %s: %w; or give its address, IP:PORT", host, err)
	}
	name, namespace := host, e.namespace
	if first, rest, ok := strings.Cut(host, "."); ok {
		name = first
		namespace, _, _ = strings.Cut(rest, ".")
	}
	service, err := k.CoreV1().Services(namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot look up the service %s in namespace %s: %w", name, namespace, err)
	}
	at := slices.IndexFunc(service.Spec.Ports, func(p core.ServicePort) bool { return p.Port == int32(port) })
	if service.Spec.Type == core.ServiceTypeExternalName {
		return nil, fmt.Errorf("the service %s/%s stands for the name %s outside of the cluster: it has no endpoints", namespace, name, service.Spec.ExternalName)
	}
	if at < 0 {
		var ports []string
		for _, p := range service.Spec.Ports {
			ports = append(ports, fmt.Sprint(p.Port))
		}
		return nil, fmt.Errorf("the service %s/%s has no port %d; it has %s", namespace, name, port, orNone(strings.Join(ports, ", ")))
	}
	if ip := service.Spec.ClusterIP; ip != "" && ip != core.ClusterIPNone {
		return []string{net.JoinHostPort(ip, strconv.Itoa(int(port)))}, nil
	}
	return k.headless(ctx, namespace, name, service.Spec.Ports[at].Name)
}

// headless are the pods' own addresses of a service without an address.
func (c *kubeCluster) headless(ctx context.Context, namespace, service, portName string) ([]string, error) {
	slices, err := c.DiscoveryV1().EndpointSlices(namespace).List(ctx, meta.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + service})
	if err != nil {
		return nil, fmt.Errorf("cannot list the endpoints of %s/%s: %w", namespace, service, err)
	}
	const most = 200
	var out []string
	for i := range slices.Items {
		slice := &slices.Items[i]
		for _, port := range slice.Ports {
			if port.Port == nil || (port.Name != nil && *port.Name != portName) {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				for _, address := range endpoint.Addresses {
					if len(out) < most {
						out = append(out, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
					}
				}
			}
		}
	}
	return out, nil
}

func (e *endpointsCommand) ask(ctx context.Context, c *client.Client, addresses []string) ([]endpointJSON, error) {
	var rows []endpointJSON
	for _, address := range addresses {
		resp, err := c.Endpoints(ctx, &weirpb.EndpointsRequest{Address: address, Namespace: e.namespace})
		if err != nil {
			return nil, callError("ask for the endpoints of "+address, err)
		}
		if !resp.GetKnown() {
			e.notef("Nobody in the cluster has the address %s: proxies connect to it as it is.", address)
		} else if len(resp.GetEndpoints()) == 0 {
			e.notef("%s has no endpoints: requests to it fail.", address)
		}
		for _, end := range resp.GetEndpoints() {
			w := end.GetWorkload()
			rows = append(rows, endpointJSON{
				Namespace: w.GetNamespace(), Service: resp.GetService(), IP: end.GetIp(), Port: end.GetPort(), Workload: describe(w), Pod: end.GetPod(),
				Node: end.GetNode(), Zone: end.GetZone(), Identity: end.GetIdentity(), Reason: end.GetReason(), Protocol: resp.GetProtocol(),
				Opaque: resp.GetOpaque(), Terminating: end.GetTerminating(),
			})
		}
	}
	return rows, nil
}

func newProxyMetrics(a *app) *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "proxy-metrics (POD | TYPE/NAME)",
		Short: "Show what proxies measure of themselves",
		Long: `Fetch the metrics of a pod's proxy, or of those of all pods of a workload, in the
text format of Prometheus.`,
		Example: `  weir diagnostics proxy-metrics web-5d8f-x2lq9 -n emojivoto
  weir diagnostics proxy-metrics deploy/web -n emojivoto`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return Usagef(cmd, "whose proxy? Give one POD or TYPE/NAME")
			}
			return a.proxyMetrics(cmd.Context(), namespace, args[0])
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", defaultNamespace, "namespace of the pod")
	return cmd
}

func (a *app) proxyMetrics(ctx context.Context, namespace, of string) error {
	k, err := a.kube()
	if err != nil {
		return err
	}
	pods, err := k.podsOf(ctx, namespace, of)
	if err != nil {
		return err
	}
	var failed []error
	for i := range pods {
		pod := &pods[i]
		if proxyOf(pod) == nil {
			failed = append(failed, fmt.Errorf("pod %s has no proxy: inject its workload with `weir inject`", pod.Name))
			continue
		}
		text, err := k.fetchMetrics(ctx, pod)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		head := fmt.Sprintf("# POD %s (%d of %d)\n", pod.Name, i+1, len(pods))
		if err := a.write(append([]byte(head), text...)); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// podsOf are the pods that POD or TYPE/NAME names.
func (c *kubeCluster) podsOf(ctx context.Context, namespace, of string) ([]core.Pod, error) {
	if !strings.Contains(of, "/") {
		of = kindPod + "/" + of
	}
	r, err := parseResource(of)
	if err != nil {
		return nil, err
	}
	fail := func(err error) ([]core.Pod, error) {
		return nil, fmt.Errorf("cannot find %s in namespace %s: %w", describe(r), namespace, err)
	}
	if r.GetKind() == kindPod {
		pod, err := c.CoreV1().Pods(namespace).Get(ctx, r.GetName(), meta.GetOptions{})
		if err != nil {
			return fail(err)
		}
		return []core.Pod{*pod}, nil
	}
	selector, err := c.selectorOf(ctx, namespace, r.GetKind(), r.GetName())
	if err != nil {
		return fail(err)
	}
	pods, err := c.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: selector})
	if err != nil {
		return fail(err)
	}
	if len(pods.Items) == 0 {
		return fail(errors.New("it has no pods"))
	}
	slices.SortFunc(pods.Items, func(a, b core.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods.Items, nil
}

// selectorOf is a workload's selector of pods.
func (c *kubeCluster) selectorOf(ctx context.Context, namespace, kind, name string) (string, error) {
	var selector *meta.LabelSelector
	switch kind {
	case "deploy":
		o, err := c.AppsV1().Deployments(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		selector = o.Spec.Selector
	case "sts":
		o, err := c.AppsV1().StatefulSets(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		selector = o.Spec.Selector
	case "ds":
		o, err := c.AppsV1().DaemonSets(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		selector = o.Spec.Selector
	case "rs":
		o, err := c.AppsV1().ReplicaSets(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		selector = o.Spec.Selector
	case "job":
		o, err := c.BatchV1().Jobs(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		selector = o.Spec.Selector
	case "rc":
		o, err := c.CoreV1().ReplicationControllers(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		return labels.SelectorFromSet(o.Spec.Selector).String(), nil
	default:
		return "", fmt.Errorf("%s has no pods of its own; name a pod, or deploy, sts, ds, rs, rc or job", kind)
	}
	parsed, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		return "", err
	}
	return parsed.String(), nil
}

// fetchMetrics asks a pod's proxy through the API server.
func (c *kubeCluster) fetchMetrics(ctx context.Context, pod *core.Pod) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("cannot get the metrics of the proxy of pod %s: %w", pod.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dial(ctx, pod.Namespace, pod.Name, namedPort(pod, portProxyAdmin, portProxyAdminDefault))
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+inject.ProxyContainer+"/metrics", nil)
	if err != nil {
		return fail(err)
	}
	resp, err := transport.RoundTrip(request)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("it answers %s", resp.Status))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	if err != nil {
		return fail(err)
	}
	return text, nil
}
