package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubeFlags say how a component reaches Kubernetes, and where it is in it.
type kubeFlags struct {
	kubeconfig string
	// namespace is Weir's own, cluster the cluster's name in subjects.
	namespace, cluster string
}

func (k *kubeFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "file that says how to reach Kubernetes (default: as a pod does)")
	f.StringVar(&k.namespace, "namespace", "weir", "Weir's own namespace")
	f.StringVar(&k.cluster, "cluster", "local", "name of this cluster in subjects and events")
}

// Requests to the API server: reviews come in bursts, as pods do.
const (
	kubeQPS   = 100
	kubeBurst = 400
)

// config is how to reach the API server.
func (k *kubeFlags) config() (*rest.Config, error) {
	var c *rest.Config
	var err error
	if k.kubeconfig == "" {
		if c, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("cannot reach Kubernetes as a pod does: %w; --kubeconfig says how else", err)
		}
	} else if c, err = clientcmd.BuildConfigFromFlags("", k.kubeconfig); err != nil {
		return nil, fmt.Errorf("cannot reach Kubernetes by --kubeconfig %s: %w", k.kubeconfig, err)
	}
	c.UserAgent = "weir"
	c.QPS, c.Burst = kubeQPS, kubeBurst
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.ContentType = runtime.ContentTypeProtobuf
	return c, nil
}

// client is a client of the API server.
func (k *kubeFlags) client() (kubernetes.Interface, error) {
	c, err := k.config()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("cannot reach Kubernetes: %w", err)
	}
	return client, nil
}
