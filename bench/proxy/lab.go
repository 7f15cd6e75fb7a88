package main

import (
	"context"
	"embed"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/weirmesh/weir/bench/measure"
)

//go:embed nginx.cfg haproxy.cfg backend.cfg
var templates embed.FS

// The names of the contenders, as the tables have them.
const (
	direct       = "direct"
	weirIn       = "weir-proxy inbound"
	weirOff      = "weir-proxy inbound, telemetry off"
	weirOut      = "weir-proxy outbound"
	nginx        = "nginx"
	haproxy      = "haproxy"
	reverseProxy = "httputil.ReverseProxy"
	weirPair     = "weir-proxy outbound → inbound"
	nginxPair    = "nginx → nginx"
	haproxyPair  = "haproxy → haproxy"
)

// endpoints are the addresses of a server or proxy, one a protocol.
type endpoints struct{ HTTP1, HTTP2, GRPC, TCP string }

// A contender is a way to the backend.
type contender struct {
	name  string
	at    endpoints
	procs []*measure.Process // whose CPU and memory count
	admin []string           // addresses of weir-proxies' admin ports
	// before is what weir-proxies that these took the place of had recorded.
	before []eventCount
}

// A lab is the processes of a run and the folder of what they write.
type lab struct {
	o        options
	dir      string
	self     string // this program's file
	files    int    // how many descriptors a process may have open
	port     int    // the next to try
	stream   string // nginx's module for TCP, where it is a file of its own
	backend  endpoints
	bus      string // URL
	procs    []*measure.Process
	versions []string
}

// newLab starts the backend and the bus. The lab is to be closed, also after
// an error.
func newLab(ctx context.Context, o options) (*lab, error) {
	l := &lab{o: o, port: 20000}
	var err error
	if l.dir, err = os.MkdirTemp("", "bench-proxy-"); err != nil {
		return l, err
	}
	if l.self, err = os.Executable(); err != nil {
		return l, err
	}
	if l.files, err = raiseFiles(); err != nil {
		return l, err
	}
	// Where Debian has it; other builds of nginx may have it linked in.
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err == nil {
		l.stream = module
	}
	if err := os.WriteFile(filepath.Join(l.dir, "64k"), make([]byte, largeBody), 0o600); err != nil {
		return l, err
	}
	message := make([]byte, 5+messageBytes)
	binary.BigEndian.PutUint32(message[1:], messageBytes)
	if err := os.WriteFile(l.message(), message, 0o600); err != nil {
		return l, err
	}
	if err := l.startBackend(ctx); err != nil {
		return l, err
	}
	return l, l.startBus(ctx)
}

// close ends every process and removes the folder.
func (l *lab) close() {
	for i := len(l.procs) - 1; i >= 0; i-- {
		l.procs[i].Stop()
	}
	_ = os.RemoveAll(l.dir)
}

// raiseFiles raises the limit of open files as far as it goes; the processes
// started later inherit it.
func raiseFiles() (int, error) {
	const want = 65536
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("cannot read the limit of open files: %w", err)
	}
	raised := syscall.Rlimit{Cur: want, Max: max(want, limit.Max)}
	if limit.Max >= want || syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) != nil {
		raised = syscall.Rlimit{Cur: min(want, limit.Max), Max: limit.Max}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return 0, fmt.Errorf("cannot raise the limit of open files: %w", err)
	}
	return int(raised.Cur), nil
}

// message is the file with the body of a gRPC request: one message.
func (l *lab) message() string { return filepath.Join(l.dir, "message") }

// connections is how many connections a proxy can carry within the limit of
// open files, each with another one to the backend.
func (l *lab) connections() int { return min(10000, (l.files-200)/2) }

// start starts a program that listens at the addresses and waits until it does.
func (l *lab) start(ctx context.Context, name string, argv []string, listen ...string) (*measure.Process, error) {
	p, err := measure.Start(name, argv...)
	if err != nil {
		return nil, err
	}
	l.procs = append(l.procs, p)
	for _, address := range listen {
		if err := p.AwaitPort(ctx, address); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// address finds a free port. It is below those that the kernel gives to
// connections, so that it stays free until its program listens.
func (l *lab) address() (string, error) {
	for ; l.port < 30000; l.port++ {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(l.port))
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.port++
		return address, listener.Close()
	}
	return "", fmt.Errorf("cannot find a free port from 20000 to %d", l.port)
}

func (l *lab) endpoints() (e endpoints, err error) {
	for _, a := range []*string{&e.HTTP1, &e.HTTP2, &e.GRPC, &e.TCP} {
		if *a, err = l.address(); err != nil {
			return e, err
		}
	}
	return e, nil
}

func (e endpoints) all() []string { return []string{e.HTTP1, e.HTTP2, e.GRPC, e.TCP} }

func (l *lab) startBackend(ctx context.Context) error {
	var err error
	if l.backend, err = l.endpoints(); err != nil {
		return err
	}
	config, err := l.render("backend.cfg", l.dir, endpoints{}, l.backend)
	if err != nil {
		return err
	}
	if _, err := l.start(ctx, "the backend's nginx", nginxCommand(l.dir, config), l.backend.HTTP1, l.backend.HTTP2); err != nil {
		return err
	}
	_, err = l.start(ctx, "the backend", []string{l.self, roleBackend, l.backend.GRPC, l.backend.TCP}, l.backend.GRPC, l.backend.TCP)
	return err
}

func (l *lab) startBus(ctx context.Context) error {
	address, err := l.address()
	if err != nil {
		return err
	}
	l.bus = "nats://" + address
	_, err = l.start(ctx, "weir bus", []string{filepath.Join(l.o.bin, "weir"), "bus",
		"--listen", address, "--data", filepath.Join(l.dir, "bus")}, address)
	return err
}

// render writes a configuration and returns its file's name.
func (l *lab) render(name, dir string, listen, backend endpoints) (string, error) {
	t, err := template.ParseFS(templates, name)
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, name)
	f, err := os.Create(out)
	if err != nil {
		return "", err
	}
	err = t.Execute(f, struct {
		Dir, Small, NginxStream string
		Root                    bool
		Files, Connections      int
		Listen, Backend         endpoints
	}{dir, strings.Repeat("x", smallBody), l.stream, os.Getuid() == 0, l.files, l.connections(), listen, backend})
	if err != nil {
		return "", err
	}
	return out, f.Close()
}

func nginxCommand(dir, config string) []string {
	return []string{"nginx", "-p", dir, "-e", "stderr", "-c", config}
}

// contender starts a contender of that name, in front of the backend.
func (l *lab) contender(ctx context.Context, name string) (*contender, error) {
	switch name {
	case direct:
		return &contender{name: name, at: l.backend}, nil
	case weirIn:
		return l.weir(ctx, name, l.backend, "--inbound", "")
	case weirOff:
		return l.weir(ctx, name, l.backend, "--inbound", "", "--telemetry", "off")
	case weirOut:
		return l.weir(ctx, name, l.backend, "--outbound", ",balance")
	case nginx:
		return l.nginx(ctx, name, l.backend)
	case haproxy:
		return l.haproxy(ctx, name, l.backend)
	case reverseProxy:
		return l.reverseProxy(ctx, name)
	case weirPair:
		return pair(func(to endpoints) (*contender, error) { return l.weir(ctx, name, to, "--inbound", "") },
			func(to endpoints) (*contender, error) { return l.weir(ctx, name, to, "--outbound", ",mesh") }, l.backend)
	case nginxPair:
		one := func(to endpoints) (*contender, error) { return l.nginx(ctx, name, to) }
		return pair(one, one, l.backend)
	case haproxyPair:
		one := func(to endpoints) (*contender, error) { return l.haproxy(ctx, name, to) }
		return pair(one, one, l.backend)
	}
	return nil, fmt.Errorf("unknown contender %q", name)
}

// pair starts two proxies, one behind the other.
func pair(near, far func(endpoints) (*contender, error), backend endpoints) (*contender, error) {
	b, err := near(backend)
	if err != nil {
		return nil, err
	}
	a, err := far(b.at)
	if err != nil {
		return nil, err
	}
	a.procs = append(a.procs, b.procs...)
	a.admin = append(a.admin, b.admin...)
	return a, nil
}

func (l *lab) weir(ctx context.Context, name string, to endpoints, direction, option string, more ...string) (*contender, error) {
	at, err := l.endpoints()
	if err != nil {
		return nil, err
	}
	admin, err := l.address()
	if err != nil {
		return nil, err
	}
	argv := []string{filepath.Join(l.o.bin, "weir-proxy"), "--workload", "bench/deploy/server", "--pod", "server-0",
		"--bus", l.bus, "--admin", admin, "--max-connections", "20000", "--drain-delay", "0s", "--drain-timeout", "1s"}
	targets := to.all()
	for i, listen := range at.all() {
		argv = append(argv, direction, listen+"="+targets[i]+option)
	}
	p, err := l.start(ctx, name, append(argv, more...), append(at.all(), admin)...)
	if err != nil {
		return nil, err
	}
	return &contender{name: name, at: at, procs: []*measure.Process{p}, admin: []string{admin}}, nil
}

func (l *lab) nginx(ctx context.Context, name string, to endpoints) (*contender, error) {
	at, config, err := l.configured("nginx.cfg", to)
	if err != nil {
		return nil, err
	}
	p, err := l.start(ctx, name, nginxCommand(filepath.Dir(config), config), at.all()...)
	if err != nil {
		return nil, err
	}
	return &contender{name: name, at: at, procs: []*measure.Process{p}}, nil
}

func (l *lab) haproxy(ctx context.Context, name string, to endpoints) (*contender, error) {
	at, config, err := l.configured("haproxy.cfg", to)
	if err != nil {
		return nil, err
	}
	p, err := l.start(ctx, name, []string{"haproxy", "-db", "-f", config}, at.all()...)
	if err != nil {
		return nil, err
	}
	return &contender{name: name, at: at, procs: []*measure.Process{p}}, nil
}

// configured writes a configuration into a folder of its own.
func (l *lab) configured(template string, to endpoints) (at endpoints, config string, err error) {
	if at, err = l.endpoints(); err != nil {
		return at, "", err
	}
	dir, err := os.MkdirTemp(l.dir, "proxy-")
	if err != nil {
		return at, "", err
	}
	config, err = l.render(template, dir, at, to)
	return at, config, err
}

func (l *lab) reverseProxy(ctx context.Context, name string) (*contender, error) {
	at, err := l.endpoints()
	if err != nil {
		return nil, err
	}
	p, err := l.start(ctx, name, []string{l.self, roleReverseProxy, at.HTTP1, l.backend.HTTP1,
		at.HTTP2, l.backend.HTTP2, at.GRPC, l.backend.GRPC}, at.HTTP1, at.HTTP2, at.GRPC)
	if err != nil {
		return nil, err
	}
	return &contender{name: name, at: at, procs: []*measure.Process{p}}, nil
}
