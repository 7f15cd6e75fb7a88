package main

import (
	"context"
	"errors"

	busserver "github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/controller/access"
)

// gatekeeper asks Kubernetes who a client of the bus is.
type gatekeeper struct{ keeper *access.Gatekeeper }

func newGatekeeper(k *kubeFlags) (gatekeeper, error) {
	client, err := k.client()
	if err != nil {
		return gatekeeper{}, err
	}
	return gatekeeper{access.New(access.Options{Kubernetes: client, Cluster: k.cluster, Namespace: k.namespace})}, nil
}

// Authenticate decides over a client's token, which plain NATS clients may show
// as a password, too.
func (g gatekeeper) Authenticate(ctx context.Context, c busserver.Credentials) (busserver.Grant, error) {
	token := c.Token
	if token == "" {
		token = c.Password
	}
	if token == "" {
		return busserver.Grant{}, errors.New("it shows no token")
	}
	grant, err := g.keeper.Authenticate(ctx, token)
	return busserver.Grant(grant), err
}
