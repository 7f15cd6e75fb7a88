package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// Cluster makes a server one of several that keep the streams together
// (Retention.Replicas says how often each message is kept). Its name,
// Options.Name, must be its own.
type Cluster struct {
	// Name is the same for all of them; default "weir".
	Name string
	// Listen is the address for the other servers, host:port.
	Listen string
	// Advertise is where they reach this one, host:port; default Listen.
	Advertise string
	// Peers are where all of them are reached, host:port; this one may be among
	// them.
	Peers []string
	// Anchors is a file of trust anchors, PEM, and PeerName a DNS name that a
	// server's certificate must hold, beside leading to an anchor: others hold
	// certificates of the same authority. Both are needed with Options.TLS,
	// which the servers then use among themselves, too.
	Anchors, PeerName string
}

// cluster adds the routes to the other servers.
func (s *Server) cluster(options *natsserver.Options, c *certificate) error {
	o := s.options.Cluster
	if o == nil {
		return nil
	}
	host, service, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen for the bus's other servers on %q: want host:port: %w", o.Listen, err)
	}
	port, err := strconv.Atoi(service)
	if err != nil || port < 1 || port > 65535 {
		return fmt.Errorf("cannot listen for the bus's other servers on %q: %q is no port", o.Listen, service)
	}
	if len(o.Peers) == 0 {
		return errors.New("cannot join the bus's other servers: none are named")
	}
	if !isLoopback(host) && c == nil && !s.options.Insecure {
		return fmt.Errorf("cannot listen for the bus's other servers on %s: anyone could join there; "+
			"give it a certificate, or permit it explicitly as insecure", o.Listen)
	}
	options.Cluster = natsserver.ClusterOpts{
		Name: o.Name, Host: host, Port: port, Advertise: o.Advertise,
		ConnectRetries: -1, ConnectBackoff: true, PoolSize: -1,
	}
	if options.Cluster.Name == "" {
		options.Cluster.Name = "weir"
	}
	for _, peer := range o.Peers {
		if _, _, err := net.SplitHostPort(peer); err != nil {
			return fmt.Errorf("cannot join the bus's server at %q: want host:port: %w", peer, err)
		}
		options.Routes = append(options.Routes, &url.URL{Scheme: "nats", Host: peer})
	}
	// Clients know the bus by one name; its servers' addresses come and go.
	options.Cluster.NoAdvertise = true
	if c == nil {
		return nil
	}
	if o.Anchors == "" || o.PeerName == "" {
		return errors.New("cannot join the bus's other servers with TLS: the trust anchors and the servers' name are needed")
	}
	if _, err := readAnchors(o.Anchors); err != nil {
		return err
	}
	options.Cluster.TLSTimeout = authTimeout.Seconds()
	options.Cluster.TLSConfig = &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       c.get,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.get(nil) },
		ClientAuth:           tls.RequireAnyClientCert,
		// VerifyConnection does it, on either side, with the anchors of the
		// moment.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   o.verify,
	}
	return nil
}

// verify tells whether the other side of a route is one of the servers.
func (o *Cluster) verify(state tls.ConnectionState) error {
	roots, err := readAnchors(o.Anchors)
	if err != nil {
		return err
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("it shows no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName: o.PeerName, Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

func readAnchors(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bus's trust anchors: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("there is no certificate in the bus's trust anchors %s", file)
	}
	return pool, nil
}
