package demo

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Namespace and Cluster are where the sample application's workloads appear.
const (
	Namespace = "emojivoto"
	Cluster   = "local"
)

// layout is every address of a demo, and how its proxies are wired.
type layout struct {
	o Options
}

// Offsets from Options.PortBase.
const (
	portBotOut = iota
	portBotAdmin
	portWebEmoji
	portWebVoting
	portWebAdmin
	portEmojiIn
	portEmojiAdmin
	portVotingIn
	portVotingAdmin
	portCount
)

func (l layout) at(offset int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.o.PortBase+offset))
}

// proxy is one sidecar: its workload's name, its admin address, its listeners.
type proxy struct {
	name, admin string
	listeners   []string
}

// proxies wires vote-bot → web → emoji, voting. Each hop goes through the
// client's sidecar and the server's; services are the applications' own
// addresses by name.
func (l layout) proxies(services map[string]string) []proxy {
	out := func(listen, target string) string { return "--outbound=" + listen + "=" + target + ",mesh" }
	in := func(listen, target string) string { return "--inbound=" + listen + "=" + target }
	return []proxy{
		{"emoji", l.at(portEmojiAdmin), []string{in(l.at(portEmojiIn), services["emoji"])}},
		{"voting", l.at(portVotingAdmin), []string{in(l.at(portVotingIn), services["voting"])}},
		{"web", l.at(portWebAdmin), []string{
			in(l.o.WebAddr, services["web"]),
			out(l.at(portWebEmoji), l.at(portEmojiIn)),
			out(l.at(portWebVoting), l.at(portVotingIn)),
		}},
		{"vote-bot", l.at(portBotAdmin), []string{out(l.at(portBotOut), l.o.WebAddr)}},
	}
}

// args are the command line of p's process.
func (p proxy) args(busURL, node string) []string {
	return append([]string{
		"--bus=" + busURL,
		"--cluster=" + Cluster,
		"--workload=" + Namespace + "/deploy/" + p.name,
		"--pod=" + p.name + "-0",
		"--node=" + node,
		"--admin=" + p.admin,
		"--drain-delay=0s",
		"--drain-timeout=5s",
	}, p.listeners...)
}

// checkPorts fails if something else listens where the demo is to listen, and
// names the address and the flag that changes it.
func (l layout) checkPorts() error {
	type port struct{ addr, what, flag string }
	ports := []port{
		{l.o.BusAddr, "bus", "--bus-addr"},
		{l.o.GRPCAddr, "API (gRPC)", "--grpc-addr"},
		{l.o.HTTPAddr, "API (HTTP)", "--http-addr"},
		{l.o.DashboardAddr, "dashboard", "--dashboard-addr"},
		{l.o.WebAddr, "application", "--web-addr"},
	}
	for i := range portCount {
		ports = append(ports, port{l.at(i), "proxies", "--port-base"})
	}
	var problems []error
	for _, p := range ports {
		ln, err := net.Listen("tcp", p.addr)
		if err != nil {
			problems = append(problems, fmt.Errorf("cannot listen on %s for the %s: %w; choose another with %s", p.addr, p.what, err, p.flag))
			continue
		}
		if err := ln.Close(); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
