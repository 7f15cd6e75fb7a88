package client

import (
	"math/rand/v2"
	"net"
	"time"
)

// dialer makes the connections to the bus; an attempt takes no longer than its
// timeout, however many addresses there are for a name.
type dialer struct {
	timeout time.Duration
	pace    *pace
}

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	began := time.Now()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts := []string{host}
	if net.ParseIP(host) == nil {
		// Where that fails, connecting fails for the same reason, and says so.
		if found, err := net.LookupHost(host); err == nil && len(found) > 0 {
			hosts = found
			rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		}
	}
	var conn net.Conn
	for i, host := range hosts {
		left := max(d.timeout-time.Since(began), time.Millisecond)
		conn, err = net.DialTimeout(network, net.JoinHostPort(host, port), left/time.Duration(len(hosts)-i))
		if err == nil {
			return direct(conn, d.pace), nil
		}
	}
	return nil, err
}
