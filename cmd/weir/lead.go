package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName is the Lease that the leading controller holds.
const leaseName = "weir-controller"

// The usual times of Kubernetes' own components: a leader that was killed is
// followed after the first; one that ends in order, at once.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

var errNoLeader = errors.New("the lease was lost: another controller leads now, or Kubernetes was away for too long")

// lead waits until this controller leads, and then runs until ctx ends. It errs
// when the lease is lost.
func lead(ctx context.Context, client kubernetes.Interface, namespace string, run func(context.Context) error) error {
	name, err := os.Hostname() // the pod's
	if err != nil {
		return fmt.Errorf("cannot name this controller: %w", err)
	}
	leading := make(chan context.Context, 1)
	e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: meta.ObjectMeta{Namespace: namespace, Name: leaseName}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("cannot choose a leader: %w", err)
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	elected := make(chan struct{})
	go func() {
		defer close(elected)
		e.Run(inner)
	}()
	select {
	case ctx := <-leading:
		// Its context ends with the lease.
		err = run(ctx)
		cancel()
		<-elected
	case <-elected:
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil || errors.Is(err, context.Canceled):
		return errNoLeader
	}
	return err
}
