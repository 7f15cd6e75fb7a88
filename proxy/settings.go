package proxy

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls"
	"github.com/weirmesh/weir/proxy/ports"
)

// Results of Parse that are no Config.
var (
	// ErrHelp: --help was given.
	ErrHelp = errors.New("help requested")
	// ErrVersion: --version was given.
	ErrVersion = errors.New("version requested")
)

// envPrefix and the flag's name in capitals, '-' as '_', make the environment
// variable of a flag.
const envPrefix = "WEIR_PROXY_"

// setting is one flag, and its environment variable.
type setting struct {
	name, value, usage string
	// want says what is accepted, with an example. A setting without value is
	// a boolean.
	want string
	// many: repeatable, and separated by spaces in the environment.
	many bool
	set  func(c *Config, v string) error
}

func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

const wantListener = "LISTEN=TARGET[,option…] with options mesh, identity=ID, discover, opaque, protocol=http/1|http/2|tcp, peer=ns/kind/name, for example --%s %s"

// settings is every flag but --help and --version, in the order of the help.
func settings() []setting {
	return append([]setting{
		{name: "inbound", value: "LISTEN=TARGET[,OPTION…]", many: true,
			usage: "accept the workload's clients at LISTEN and carry them to TARGET",
			want:  fmt.Sprintf(wantListener, "inbound", "127.0.0.1:4143=127.0.0.1:8080"),
			set:   func(c *Config, v string) error { return c.addListener(event.Inbound, v) }},
		{name: "outbound", value: "LISTEN=TARGET[+TARGET…][,OPTION…]", many: true,
			usage: "accept the workload's own connections at LISTEN and carry them to TARGET, or each request to one of several",
			want:  fmt.Sprintf(wantListener, "outbound", "127.0.0.1:4140=10.0.0.7:4143,mesh"),
			set:   func(c *Config, v string) error { return c.addListener(event.Outbound, v) }},
		{name: "transparent", usage: "take what weir-proxy init redirects, and carry it to where it meant to go (default false)",
			want: "true or false, for example --transparent=true",
			set:  func(c *Config, v string) error { return setBool(&c.Traffic.Transparent, v) }},
		{name: "inbound-port", value: "PORT", usage: "where --transparent takes inbound connections (default 4143)",
			want: "1 to 65535, for example --inbound-port 4143",
			set:  func(c *Config, v string) error { return setPort(&c.Traffic.InboundPort, v) }},
		{name: "outbound-port", value: "PORT", usage: "where --transparent takes the workload's own connections (default 4140)",
			want: "1 to 65535, for example --outbound-port 4140",
			set:  func(c *Config, v string) error { return setPort(&c.Traffic.OutboundPort, v) }},
		{name: "opaque-ports", value: "PORTS|none",
			usage: `ports whose connections --transparent carries as TCP, undetected (default "` + portList(defaultOpaquePorts()) + `")`,
			want:  "ports and ranges, or none, for example --opaque-ports 25,3306,9000-9010",
			set:   setOpaquePorts},
		{name: "workload", value: "NS/KIND/NAME", usage: "what the proxy stands beside; names its telemetry",
			want: "NS/KIND/NAME with kind " + kinds + ", for example --workload emojivoto/deploy/web",
			set: func(c *Config, v string) error {
				w, err := parseWorkload(v)
				w.Cluster = c.Self.Workload.Cluster
				c.Self.Workload = w
				return err
			}},
		{name: "pod", value: "NAME", usage: "the pod's name", want: wantName("pod", "web-0"),
			set: func(c *Config, v string) error { c.Self.Pod = v; return checkName(v, 253) }},
		{name: "node", value: "NAME", usage: "the node's name", want: wantName("node", "worker-1"),
			set: func(c *Config, v string) error { c.Self.Node = v; return checkName(v, 253) }},
		{name: "cluster", value: "NAME", usage: `the cluster's name (default "local")`, want: wantName("cluster", "east"),
			set: func(c *Config, v string) error { c.Self.Workload.Cluster = v; return checkName(v, 63) }},
		{name: "bus", value: "URL", many: true, usage: "where telemetry goes; none: no telemetry",
			want: "nats://HOST:PORT, for example --bus nats://127.0.0.1:4222",
			set:  addBus},
	}, append(identitySettings(), []setting{
		{name: "telemetry", value: "on|off", usage: `publish an event for each request (default "on")`,
			want: "on or off, for example --telemetry off", set: setTelemetry},
		{name: "telemetry-buffer", value: "BYTES", usage: "bound of telemetry that awaits the bus (default 4MiB)",
			want: "bytes, at least 64KiB, for example --telemetry-buffer 8MiB",
			set:  func(c *Config, v string) error { return setBytes(&c.Telemetry.RetainBytes, v, 64<<10) }},
		{name: "telemetry-spool", value: "DIR", usage: "directory, best in memory, in which telemetry survives a kill; none: it does not",
			want: "a directory of its own, for example --telemetry-spool /run/weir/spool",
			set:  func(c *Config, v string) error { c.Telemetry.Spool = v; return nil }},
		{name: "admin", value: "ADDR", usage: `address of /metrics, /live and /ready, or "off" (default "127.0.0.1:4191")`,
			want: `HOST:PORT or off, for example --admin 127.0.0.1:4191`, set: setAdmin},
		{name: "drain-delay", value: "DURATION", usage: "go on accepting for so long after SIGTERM (default 1s)",
			want: "a duration, for example --drain-delay 5s",
			set:  func(c *Config, v string) error { return setDuration(&c.Traffic.DrainDelay, v, 0) }},
		{name: "drain-timeout", value: "DURATION", usage: "then let open connections go on for so long (default 30s)",
			want: "a duration, for example --drain-timeout 1m",
			set:  func(c *Config, v string) error { return setDuration(&c.Traffic.DrainTimeout, v, 0) }},
		{name: "connect-timeout", value: "DURATION", usage: "bound of connecting to a server (default 5s)",
			want: "a duration of at least 1ms, for example --connect-timeout 2s",
			set: func(c *Config, v string) error {
				return setDuration(&c.Traffic.ConnectTimeout, v, time.Millisecond)
			}},
		{name: "max-connections", value: "N", usage: "bound of clients' connections (default 10000)",
			want: "a number of at least 1, for example --max-connections 20000", set: setMaxConnections},
		{name: "max-head-bytes", value: "BYTES", usage: "bound of an HTTP head (default 64KiB)",
			want: "bytes, at least 4KiB, for example --max-head-bytes 128KiB",
			set:  func(c *Config, v string) error { return setBytes(&c.Traffic.MaxHeadBytes, v, 4<<10) }},
		{name: "head-timeout", value: "DURATION", usage: "bound of a client's sending an HTTP head (default 1m)",
			want: "a duration of at least 1ms, for example --head-timeout 30s",
			set: func(c *Config, v string) error {
				return setDuration(&c.Traffic.HeadTimeout, v, time.Millisecond)
			}},
		{name: "log-level", value: "LEVEL", usage: `debug, info, warn or error (default "info")`,
			want: "debug, info, warn or error, for example --log-level debug",
			set:  func(c *Config, v string) error { return c.Log.Level.UnmarshalText([]byte(v)) }},
		{name: "log-format", value: "text|json", usage: `form of the log on stderr (default "text")`,
			want: "text or json, for example --log-format json", set: setLogFormat},
	}...)...)
}

// Parse makes a Config from flags and environment: a flag outdoes its
// variable. Errors name the flag or variable, the value, what is accepted and
// an example. It may also return ErrHelp or ErrVersion.
func Parse(args []string, env func(string) string) (Config, error) {
	fs := flag.NewFlagSet("weir-proxy", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	all := settings()
	given := make([][]string, len(all))
	for i := range all {
		keep := func(v string) error {
			given[i] = append(given[i], v)
			return nil
		}
		if all[i].value == "" {
			fs.BoolFunc(all[i].name, "", keep)
		} else {
			fs.Func(all[i].name, "", keep)
		}
	}
	version := fs.Bool("version", false, "")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return Config{}, ErrHelp
	case err != nil:
		return Config{}, fmt.Errorf("%s; --help lists the flags", strings.Replace(err.Error(), ": -", ": --", 1))
	case *version:
		return Config{}, ErrVersion
	case fs.NArg() > 0:
		return Config{}, fmt.Errorf("unexpected argument %q: everything is a flag; --help lists them", fs.Arg(0))
	}
	c := DefaultConfig()
	for i := range all {
		if err := all[i].apply(&c, given[i], env); err != nil {
			return Config{}, err
		}
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// apply sets the values given as flags, or else that of the environment.
func (s *setting) apply(c *Config, given []string, env func(string) string) error {
	from := "--" + s.name
	if len(given) == 0 {
		v := env(s.env())
		if v == "" {
			return nil
		}
		from, given = s.env(), []string{v}
		if s.many {
			given = splitList(v)
		}
	}
	if !s.many && len(given) > 1 {
		return fmt.Errorf("%s is given %d times, want it once", from, len(given))
	}
	for _, v := range given {
		if err := s.set(c, v); err != nil {
			return fmt.Errorf("%s %q: %w; want %s", from, v, err, s.want)
		}
	}
	return nil
}

// splitList splits a variable that holds several values: at spaces, and at
// commas where what follows is not an option of the value before.
func splitList(v string) []string {
	var out []string
	for _, word := range strings.Fields(v) {
		first := true
		for part := range strings.SplitSeq(word, ",") {
			key, _, _ := strings.Cut(part, "=")
			if first || strings.ContainsAny(key, ":") {
				out = append(out, part)
			} else {
				out[len(out)-1] += "," + part
			}
			first = false
		}
	}
	return out
}

// check finds what is wrong with the settings together, and completes them.
func (c *Config) check() error {
	if c.Traffic.Transparent {
		if c.Traffic.InboundPort == c.Traffic.OutboundPort {
			return fmt.Errorf("--inbound-port and --outbound-port are both %d: they must differ", c.Traffic.InboundPort)
		}
		c.Traffic.Discovery = c.Traffic.Discovery || c.Identity.Token != ""
		c.Traffic.Listeners = append(c.Traffic.Listeners, c.Traffic.transparentListeners()...)
	}
	if len(c.Traffic.Listeners) == 0 {
		return errors.New("nothing to carry: give --transparent, --inbound LISTEN=TARGET or --outbound LISTEN=TARGET, " +
			"for example --inbound 127.0.0.1:4143=127.0.0.1:8080")
	}
	if c.Publishes() && c.Self.Workload.Name == "" {
		return errors.New("--bus needs --workload NS/KIND/NAME to name the telemetry, " +
			"for example --workload emojivoto/deploy/web (or --telemetry off)")
	}
	if err := c.checkIdentity(); err != nil {
		return err
	}
	for i := range c.Traffic.Listeners {
		if peer := &c.Traffic.Listeners[i].Peer; peer.Name != "" {
			peer.Cluster = c.Self.Workload.Cluster
		}
	}
	return nil
}

// Publishes tells whether the proxy has telemetry to send.
func (c *Config) Publishes() bool { return !c.Telemetry.Off && c.Telemetry.Bus != "" }

// addListener parses LISTEN=TARGET[,option…].
func (c *Config) addListener(d event.Direction, v string) error {
	parts := strings.Split(v, ",")
	at, target, ok := strings.Cut(parts[0], "=")
	if !ok {
		return errors.New("no '='")
	}
	s := listen.Spec{Direction: d, Listen: at, Target: target}
	targets := strings.Split(target, "+")
	if err := checkHostPort(at, true); err != nil {
		return fmt.Errorf("listen address %q: %w", at, err)
	}
	for _, target := range targets {
		if err := checkHostPort(target, false); err != nil {
			return fmt.Errorf("target %q: %w", target, err)
		}
		if at == target {
			return errors.New("it would carry to itself")
		}
	}
	balance := len(targets) > 1
	for _, option := range parts[1:] {
		if option == "balance" {
			balance = true
		} else if err := listenerOption(&s, option); err != nil {
			return err
		}
	}
	if balance {
		if d != event.Outbound {
			return errors.New("only outbound listeners balance over targets")
		}
		s.Endpoints = targets
	}
	if d == event.Inbound && (s.Identity != "" || s.Discover) {
		return errors.New("identity= and discover are for outbound listeners")
	}
	if s.Opaque && s.Protocol != event.ProtocolUnknown {
		return errors.New("opaque and protocol= exclude each other")
	}
	c.Traffic.Listeners = append(c.Traffic.Listeners, s)
	return nil
}

func listenerOption(s *listen.Spec, option string) (err error) {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "mesh":
		s.Mesh = true
	case "identity":
		s.Mesh, s.Identity = true, value
		if ns, _ := mtls.ServiceAccount(value); value != listen.AnyIdentity && ns == "" {
			return fmt.Errorf("identity %q is neither spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME nor any", value)
		}
	case "discover":
		s.Discover = true
	case "opaque":
		s.Opaque = true
	case "protocol":
		switch value {
		case "http/1":
			s.Protocol = event.HTTP1
		case "http/2":
			s.Protocol = event.HTTP2
		case "tcp":
			s.Protocol = event.TCP
		default:
			return fmt.Errorf("unknown protocol %q", value)
		}
	case "peer":
		s.Peer, err = parseWorkload(value)
	default:
		return fmt.Errorf("unknown option %q", option)
	}
	return err
}

// checkHostPort accepts HOST:PORT; a listen address may leave out the host and
// use port 0.
func checkHostPort(v string, listens bool) error {
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("it is not HOST:PORT")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !listens {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if host == "" && !listens {
		return errors.New("it has no host")
	}
	if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, " /:@?#") {
		return fmt.Errorf("%q is no host", host)
	}
	return nil
}

// kinds are kubectl's short forms, and ext for what is no workload.
const kinds = "deploy, sts, ds, job, cronjob, rs, rc, pod or ext"

func parseWorkload(v string) (event.Workload, error) {
	parts := strings.Split(v, "/")
	if len(parts) != 3 {
		return event.Workload{}, fmt.Errorf("%q is not three names with '/' between", v)
	}
	w := event.Workload{Namespace: parts[0], Kind: parts[1], Name: parts[2]}
	switch w.Kind {
	case "deploy", "sts", "ds", "job", "cronjob", "rs", "rc", "pod", "ext":
	default:
		return w, fmt.Errorf("unknown kind %q", w.Kind)
	}
	if err := checkName(w.Namespace, 63); err != nil {
		return w, err
	}
	return w, checkName(w.Name, 253)
}

func wantName(flag, example string) string {
	return "letters, digits, '-', '_' and '.', for example --" + flag + " " + example
}

// checkName accepts what Kubernetes calls things, and what a bus subject, a
// metric label and a log line can hold.
func checkName(v string, longest int) error {
	if v == "" {
		return errors.New("a name is empty")
	}
	if len(v) > longest {
		return fmt.Errorf("%q is longer than %d", v, longest)
	}
	for _, r := range v {
		ok := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !ok && r != '-' && r != '_' && r != '.' {
			return fmt.Errorf("%q cannot stand in a name", r)
		}
	}
	return nil
}

func addBus(c *Config, v string) error {
	for one := range strings.SplitSeq(v, ",") {
		u, err := url.Parse(one)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" {
			return errors.New("it is no address of a bus")
		}
		if c.Telemetry.Bus != "" {
			c.Telemetry.Bus += ","
		}
		c.Telemetry.Bus += one
	}
	return nil
}

func setTelemetry(c *Config, v string) error {
	if v != "on" && v != "off" {
		return errors.New("it is neither")
	}
	c.Telemetry.Off = v == "off"
	return nil
}

func setAdmin(c *Config, v string) error {
	if v == "off" {
		c.Admin.Listen = ""
		return nil
	}
	c.Admin.Listen = v
	return checkHostPort(v, true)
}

func setBool(dst *bool, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return errors.New("it is neither")
	}
	*dst = b
	return nil
}

func setPort(dst *uint16, v string) (err error) {
	*dst, err = ports.ParseOne(v)
	return err
}

func setOpaquePorts(c *Config, v string) error {
	if v == "none" {
		c.Traffic.OpaquePorts = nil
		return nil
	}
	list, err := ports.Parse(v)
	c.Traffic.OpaquePorts = ports.Merge(list)
	return err
}

// portList is the list as flags have it.
func portList(list []ports.Range) string {
	var texts []string
	for _, r := range list {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ",")
}

func setMaxConnections(c *Config, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return errors.New("it is no such number")
	}
	c.Traffic.MaxConnections = n
	return nil
}

func setLogFormat(c *Config, v string) error {
	if v != "text" && v != "json" {
		return errors.New("it is neither")
	}
	c.Log.JSON = v == "json"
	return nil
}

func setDuration(dst *time.Duration, v string, least time.Duration) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < least {
		return errors.New("it is no such duration")
	}
	*dst = d
	return nil
}

// setBytes accepts a number of bytes, or of KiB or MiB.
func setBytes(dst *int, v string, least int) error {
	digits, unit := v, 1
	for suffix, size := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20} {
		if s, ok := strings.CutSuffix(v, suffix); ok {
			digits, unit = s, size
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > 1<<30/unit || n*unit < least {
		return errors.New("it is no such number of bytes")
	}
	*dst = n * unit
	return nil
}

// Usage is the text of --help.
func Usage() string {
	var b strings.Builder
	b.WriteString("weir-proxy carries a workload's traffic and publishes an event for each request.\n\n" +
		"Usage:\n  weir-proxy init [flags]             redirect a pod's traffic to its proxy; see weir-proxy init --help\n" +
		"  weir-proxy [run] --transparent --workload emojivoto/deploy/web --bus nats://weir-bus:4222\n" +
		"  weir-proxy [run] --inbound 127.0.0.1:4143=127.0.0.1:8080 --workload emojivoto/deploy/web --bus nats://127.0.0.1:4222\n\n" +
		"Flags (each also as environment variable, the flag outdoes it):\n")
	for _, s := range settings() {
		fmt.Fprintf(&b, "  --%s\n        %s", strings.TrimSpace(s.name+" "+s.value), s.usage)
		if s.many {
			b.WriteString("; repeatable")
		}
		fmt.Fprintf(&b, "; %s\n", s.env())
	}
	b.WriteString("  --version\n        print the version and exit\n\n" +
		"Options of --inbound and --outbound:\n" +
		"  mesh              outbound: TARGET is a Weir proxy, the two introduce each other;\n" +
		"                    inbound: clients are Weir proxies (they are recognised without, too)\n" +
		"  identity=ID       outbound: mesh, under mutual TLS, in which TARGET must prove ID,\n" +
		"                    spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME, or any of the trust domain\n" +
		"  discover          outbound: ask the control plane what is behind TARGET\n" +
		"  opaque            carry as TCP, undetected\n" +
		"  balance           outbound: balance requests even where there is one TARGET\n" +
		"  protocol=P        http/1, http/2 or tcp: no detection\n" +
		"  peer=NS/KIND/NAME names the other side where it has no proxy to name itself\n")
	return b.String()
}
