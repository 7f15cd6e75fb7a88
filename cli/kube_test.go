package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	storage "k8s.io/api/storage/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// keyed is a certificate with its key.
type keyed struct {
	certificate *x509.Certificate
	pem, keyPEM []byte
	key         *ecdsa.PrivateKey
}

// certify makes a certificate that is valid for so long from an hour before now
// on; by nil: by itself.
func certify(t *testing.T, name string, life time.Duration, by *keyed, dns ...string) *keyed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life), BasicConstraintsValid: true, IsCA: len(dns) == 0,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: nil,
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	out := &keyed{key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if out.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	out.keyPEM = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	return out
}

const year = 365 * 24 * time.Hour

// installation is a cluster with Weir in it, which tests break.
type installation struct {
	anchor, issuer, bus *keyed
	version             string
	namespace           *core.Namespace
	config, anchors     *core.ConfigMap
	issuerSecret        *core.Secret
	busSecret           *core.Secret
	webhook             *admission.MutatingWebhookConfiguration
	node                *core.Node
	class               *storage.StorageClass
	pods                []*core.Pod
	others              []runtime.Object
	// denied are resources that the user may not create.
	denied map[string]bool
	// api is where the API of weir-api's pod answers.
	api string
	// unreachable makes each question to the API server fail.
	unreachable error
}

func named(namespace, name string) meta.ObjectMeta {
	return meta.ObjectMeta{Namespace: namespace, Name: name}
}

func readyPod(namespace, name, component string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
			"app.kubernetes.io/part-of": "weir", "app.kubernetes.io/component": component, "app.kubernetes.io/version": "v0.1.0",
		}},
		Status: core.PodStatus{
			Phase:             core.PodRunning,
			Conditions:        []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
			ContainerStatuses: []core.ContainerStatus{{Name: component, Ready: true}},
		},
	}
}

// injectedPod is one with a proxy that is ready.
func injectedPod(name string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: "emojivoto", Name: name, Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"weir.dev/proxy-version": "v0.1.0"}},
		Spec: core.PodSpec{
			InitContainers: []core.Container{{Name: "weir-proxy", Ports: []core.ContainerPort{{Name: "weir-admin", ContainerPort: 4191}}}},
			Volumes:        []core.Volume{{Name: "weir-identity"}},
		},
		Status: core.PodStatus{Phase: core.PodRunning, InitContainerStatuses: []core.ContainerStatus{{Name: "weir-proxy", Ready: true}}},
	}
}

// healthy is an installation of which all is well, but that its API is the
// caller's.
func healthy(t *testing.T, api string) *installation {
	t.Helper()
	i := &installation{version: "v1.36.2", api: api, denied: map[string]bool{}}
	i.anchor = certify(t, "root.weir.cluster.local", 10*year, nil)
	i.issuer = certify(t, "identity.weir.cluster.local", year, i.anchor)
	i.bus = certify(t, "weir-bus", 24*time.Hour, i.issuer, "weir-bus.weir.svc", "weir-controller.weir.svc")
	i.namespace = &core.Namespace{ObjectMeta: named("", "weir")}
	i.config = &core.ConfigMap{ObjectMeta: named("weir", "weir-config"), Data: map[string]string{"values.yaml": "clusterName: east\n"}}
	i.anchors = &core.ConfigMap{ObjectMeta: named("weir", "weir-trust-anchors"), Data: map[string]string{"ca.crt": string(i.anchor.pem)}}
	i.issuerSecret = &core.Secret{ObjectMeta: named("weir", "weir-identity-issuer"), Data: map[string][]byte{"tls.crt": i.issuer.pem, "tls.key": i.issuer.keyPEM}}
	i.busSecret = &core.Secret{ObjectMeta: named("weir", "weir-bus-tls"), Data: map[string][]byte{"tls.crt": append(i.bus.pem, i.issuer.pem...)}}
	i.webhook = &admission.MutatingWebhookConfiguration{ObjectMeta: named("", "weir-injector"), Webhooks: []admission.MutatingWebhook{{
		Name: "pod.injector.weir.dev", ClientConfig: admission.WebhookClientConfig{CABundle: i.anchor.pem},
	}}}
	i.node = &core.Node{ObjectMeta: named("", "node-1"), Status: core.NodeStatus{NodeInfo: core.NodeSystemInfo{OperatingSystem: "linux", KubeletVersion: "v1.36.2"}}}
	i.class = &storage.StorageClass{ObjectMeta: meta.ObjectMeta{Name: "standard", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}}
	for _, component := range []string{"bus", "aggregator", "controller", "api"} {
		i.pods = append(i.pods, readyPod("weir", "weir-"+component+"-0", component))
		i.others = append(i.others, &core.ServiceAccount{ObjectMeta: named("weir", "weir-"+component)})
	}
	for _, name := range []string{"weir-bus", "weir-controller"} {
		i.others = append(i.others, &rbac.ClusterRole{ObjectMeta: named("", name)}, &rbac.ClusterRoleBinding{ObjectMeta: named("", name)})
	}
	return i
}

// cluster starts what the installation's pods serve and gives its cluster.
func (i *installation) cluster(t *testing.T) *kubeCluster {
	t.Helper()
	objects := append([]runtime.Object{}, i.others...)
	for _, p := range i.pods {
		objects = append(objects, p)
	}
	// What a test took out is a nil pointer.
	if i.namespace != nil {
		objects = append(objects, i.namespace)
	}
	for _, m := range []*core.ConfigMap{i.config, i.anchors} {
		if m != nil {
			objects = append(objects, m)
		}
	}
	for _, s := range []*core.Secret{i.issuerSecret, i.busSecret} {
		if s != nil {
			objects = append(objects, s)
		}
	}
	if i.webhook != nil {
		objects = append(objects, i.webhook)
	}
	if i.node != nil {
		objects = append(objects, i.node)
	}
	if i.class != nil {
		objects = append(objects, i.class)
	}
	k := fake.NewClientset(objects...)
	server, ok := k.Discovery().(*fakediscovery.FakeDiscovery)
	if !ok {
		t.Fatal("the fake clientset has no fake discovery")
	}
	server.FakedServerVersion = &version.Info{GitVersion: i.version}
	k.PrependReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create, ok := action.(clienttesting.CreateAction)
		if !ok {
			return false, nil, nil
		}
		review, ok := create.GetObject().(*authorization.SelfSubjectAccessReview)
		if !ok {
			return false, nil, nil
		}
		review.Status.Allowed = !i.denied[review.Spec.ResourceAttributes.Resource]
		return true, review, nil
	})
	if i.unreachable != nil {
		k.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, i.unreachable })
	}
	webhook := i.serveTLS(t)
	return &kubeCluster{Interface: k, context: "test", namespace: "weir", dial: func(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
		addr, ok := map[string]string{"weir-api-0:8085": i.api, "weir-controller-0:8443": webhook}[fmt.Sprintf("%s:%d", pod, port)]
		if !ok || namespace != "weir" {
			return nil, fmt.Errorf("nobody listens on port %d of pod %s/%s", port, namespace, pod)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}}
}

// serveTLS is the webhook's port.
func (i *installation) serveTLS(t *testing.T) string {
	t.Helper()
	pair, err := tls.X509KeyPair(append(append([]byte{}, i.bus.pem...), i.issuer.pem...), i.bus.keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// weirIn runs a command with a cluster.
func weirIn(t *testing.T, k *kubeCluster, args ...string) (out, errOut string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := newCommand(args...)
	c.app.newCluster = func(*kubeFlags) (*kubeCluster, error) {
		if k == nil {
			return nil, errors.New("cannot use the kubeconfig: context \"test\" does not exist")
		}
		return k, nil
	}
	err = c.root.ExecuteContext(ctx)
	return c.out.String(), c.errOut.String(), err
}
