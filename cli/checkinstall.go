package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/deploy/values"
)

// What an installation is called.
const (
	secretIssuer     = "weir-identity-issuer"
	secretBus        = "weir-bus-tls"
	webhookConfig    = "weir-injector"
	webhookPort      = 8443
	componentWebhook = "controller"
	// expiresSoon is when a certificate that nobody rotates is spoken of.
	expiresSoon = 60 * 24 * time.Hour
)

// components are the parts of the control plane, as their labels name them.
var components = [...]string{"bus", "aggregator", "controller", "api"}

func (c *checkCommand) configChecks() category {
	return category{"weir-config", []check{{
		says: fmt.Sprintf("the namespace %s exists", c.cluster.namespace), hint: "not-installed", fatal: true,
		do: "install Weir with `weir install | kubectl apply -f -`, or say with --weir-namespace where it is",
		run: func(ctx context.Context) error {
			_, err := c.k.CoreV1().Namespaces().Get(ctx, c.k.namespace, meta.GetOptions{})
			return err
		},
	}, {
		says: "the ConfigMap weir-config holds valid values", hint: "config", fatal: true,
		do:  "install again, with the values that are wanted: `weir install -f values.yaml | kubectl apply -f -`",
		run: c.checkConfig,
	}, {
		says: "ServiceAccounts and roles exist", hint: "config",
		do:  "apply the whole installation again, as somebody who may create cluster roles: `weir install | kubectl apply -f -`",
		run: c.checkAccounts,
	}}}
}

func (c *checkCommand) checkConfig(ctx context.Context) error {
	config, err := c.k.CoreV1().ConfigMaps(c.k.namespace).Get(ctx, configMapConfig, meta.GetOptions{})
	if err != nil {
		return err
	}
	c.values = []byte(config.Data[configKeyValues])
	_, err = c.installedValues()
	return err
}

// installedValues are what Weir was installed with.
func (c *checkCommand) installedValues() (*values.Values, error) {
	var given map[string]any
	if err := yaml.Unmarshal(c.values, &given); err != nil {
		return nil, fmt.Errorf("cannot read %s of the ConfigMap %s: %w", configKeyValues, configMapConfig, err)
	}
	v, err := values.Decode(values.Default(), given)
	if err != nil {
		return nil, fmt.Errorf("%s of the ConfigMap %s: %w", configKeyValues, configMapConfig, err)
	}
	return v, nil
}

func (c *checkCommand) checkAccounts(ctx context.Context) error {
	var errs []error
	for _, component := range components {
		_, err := c.k.CoreV1().ServiceAccounts(c.k.namespace).Get(ctx, "weir-"+component, meta.GetOptions{})
		errs = append(errs, err)
	}
	for _, name := range []string{"weir-bus", "weir-controller"} {
		_, err := c.k.RbacV1().ClusterRoles().Get(ctx, name, meta.GetOptions{})
		_, bindingErr := c.k.RbacV1().ClusterRoleBindings().Get(ctx, name, meta.GetOptions{})
		errs = append(errs, err, bindingErr)
	}
	return errors.Join(errs...)
}

// pki is what the installation's certificates are.
type pki struct {
	anchors []*x509.Certificate
	roots   *x509.CertPool
	issuer  *x509.Certificate
	// between are those that stand with the issuer.
	between *x509.CertPool
}

func (c *checkCommand) identityChecks() category {
	c.pki = &pki{}
	const renew = "docs/troubleshooting.md says how to put a new one in place without an interruption"
	return category{"weir-identity", []check{{
		says: "trust anchors are valid", hint: "trust-anchors", fatal: true, retry: true,
		do:  "put the anchors' certificates, PEM, into ca.crt of the ConfigMap weir-trust-anchors; " + renew,
		run: c.checkAnchors,
	}, {
		says: "trust anchors are valid for at least 60 days", hint: "trust-anchors", warn: true,
		do:  "add a new anchor beside the old one now; " + renew,
		run: func(context.Context) error { return c.soon("trust anchor", c.pki.anchors...) },
	}, {
		says: "the issuer's certificate and key are valid", hint: "issuer", fatal: true, retry: true,
		do:  "make a new issuer below the trust anchors; " + renew,
		run: c.checkIssuer,
	}, {
		says: "the issuer is valid for at least 60 days", hint: "issuer", warn: true,
		do:  "make a new issuer below the trust anchors now, or let cert-manager do it; " + renew,
		run: func(context.Context) error { return c.soon("issuer", c.pki.issuer) },
	}, {
		says: "the issuer leads to a trust anchor", hint: "issuer",
		do:  "see that weir-trust-anchors holds the certificate that signed the issuer's; proxies refuse each other otherwise",
		run: func(context.Context) error { return c.verify(c.pki.issuer, "") },
	}, {
		says: "the bus has a certificate that clients accept", hint: "bus-certificate", retry: true,
		do:  "see the log of weir-controller, which makes and renews it: `kubectl -n " + c.cluster.namespace + " logs deploy/weir-controller`",
		run: c.checkBusCertificate,
	}}}
}

// parseCertificates reads all certificates of a PEM.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, certificate)
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return out, nil
}

func (c *checkCommand) checkAnchors(ctx context.Context) error {
	config, err := c.k.CoreV1().ConfigMaps(c.k.namespace).Get(ctx, configMapAnchors, meta.GetOptions{})
	if err != nil {
		return err
	}
	if c.pki.anchors, err = parseCertificates([]byte(config.Data[configKeyAnchors])); err != nil {
		return fmt.Errorf("%s of the ConfigMap %s: %w", configKeyAnchors, configMapAnchors, err)
	}
	c.pki.roots = x509.NewCertPool()
	var errs []error
	valid := 0
	for _, anchor := range c.pki.anchors {
		c.pki.roots.AddCert(anchor)
		err := c.validNow("trust anchor", anchor)
		if err == nil && !anchor.IsCA {
			err = fmt.Errorf("trust anchor %s is not an authority's certificate", anchor.Subject)
		}
		if err == nil {
			valid++
		}
		errs = append(errs, err)
	}
	if valid > 0 {
		// While one is exchanged, the old one may have run out.
		return nil
	}
	return errors.Join(errs...)
}

// validNow tells whether a certificate is, by this machine's clock.
func (c *checkCommand) validNow(what string, certificate *x509.Certificate) error {
	switch now := c.now(); {
	case now.Before(certificate.NotBefore):
		return fmt.Errorf("%s %s is not valid before %s", what, certificate.Subject, stampUTC(certificate.NotBefore))
	case now.After(certificate.NotAfter):
		return fmt.Errorf("%s %s has expired at %s", what, certificate.Subject, stampUTC(certificate.NotAfter))
	}
	return nil
}

// soon tells which certificates expire soon.
func (c *checkCommand) soon(what string, certificates ...*x509.Certificate) error {
	var errs []error
	for _, certificate := range certificates {
		if left := certificate.NotAfter.Sub(c.now()); left < expiresSoon {
			errs = append(errs, fmt.Errorf("%s %s expires in %d days, at %s", what, certificate.Subject, int(left.Hours()/24), stampUTC(certificate.NotAfter)))
		}
	}
	return errors.Join(errs...)
}

func stampUTC(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (c *checkCommand) checkIssuer(ctx context.Context) error {
	secret, err := c.k.CoreV1().Secrets(c.k.namespace).Get(ctx, secretIssuer, meta.GetOptions{})
	if err != nil {
		return err
	}
	chain, err := parseCertificates(secret.Data[core.TLSCertKey])
	if err != nil {
		return fmt.Errorf("%s of the Secret %s: %w", core.TLSCertKey, secretIssuer, err)
	}
	if _, err := tls.X509KeyPair(secret.Data[core.TLSCertKey], secret.Data[core.TLSPrivateKeyKey]); err != nil {
		return fmt.Errorf("%s and %s of the Secret %s: %w", core.TLSCertKey, core.TLSPrivateKeyKey, secretIssuer, err)
	}
	c.pki.issuer, c.pki.between = chain[0], x509.NewCertPool()
	for _, certificate := range chain {
		c.pki.between.AddCert(certificate)
	}
	if !c.pki.issuer.IsCA {
		return fmt.Errorf("the issuer %s is not an authority's certificate: it cannot sign", c.pki.issuer.Subject)
	}
	return c.validNow("the issuer", c.pki.issuer)
}

// verify tells whether a certificate leads to a trust anchor.
func (c *checkCommand) verify(certificate *x509.Certificate, name string) error {
	_, err := certificate.Verify(x509.VerifyOptions{
		Roots: c.pki.roots, Intermediates: c.pki.between, CurrentTime: c.now(), DNSName: name,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

func (c *checkCommand) checkBusCertificate(ctx context.Context) error {
	secret, err := c.k.CoreV1().Secrets(c.k.namespace).Get(ctx, secretBus, meta.GetOptions{})
	if err != nil {
		return err
	}
	chain, err := parseCertificates(secret.Data[core.TLSCertKey])
	if err != nil {
		return fmt.Errorf("%s of the Secret %s: %w", core.TLSCertKey, secretBus, err)
	}
	if err := c.validNow("the bus's certificate", chain[0]); err != nil {
		return err
	}
	for _, certificate := range chain[1:] {
		c.pki.between.AddCert(certificate)
	}
	return c.verify(chain[0], "weir-bus."+c.k.namespace+".svc")
}

func (c *checkCommand) webhookChecks() category {
	var bundle []byte
	return category{"weir-webhook", []check{{
		says: "the injector's webhook is configured", hint: "webhook",
		do: "apply the installation again: `weir install | kubectl apply -f -`; without it only `weir inject` injects",
		run: func(ctx context.Context) error {
			config, err := c.k.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, webhookConfig, meta.GetOptions{})
			if apierrors.IsNotFound(err) && c.injectorOff() {
				return errSkipped
			}
			if err == nil {
				bundle, err = webhookBundle(config)
			}
			return err
		},
		retry: true,
	}, {
		says: "the webhook answers with a certificate that the API server accepts", hint: "webhook", retry: true,
		do: "see the log of weir-controller, which makes the certificate: `kubectl -n " + c.cluster.namespace + " logs deploy/weir-controller`",
		run: func(ctx context.Context) error {
			if c.injectorOff() {
				return errSkipped
			}
			if bundle == nil {
				return errors.New("the webhook is not configured")
			}
			return c.checkWebhook(ctx, bundle)
		},
	}}}
}

// injectorOff tells whether Weir was installed without the webhook.
func (c *checkCommand) injectorOff() bool {
	v, err := c.installedValues()
	return err == nil && !v.Injector.Enabled
}

// webhookBundle is the authority of all of a configuration's webhooks.
func webhookBundle(config *admission.MutatingWebhookConfiguration) ([]byte, error) {
	var bundle []byte
	for i := range config.Webhooks {
		w := &config.Webhooks[i]
		if len(w.ClientConfig.CABundle) == 0 {
			return nil, fmt.Errorf("the webhook %s has no caBundle: the controller has not set it yet", w.Name)
		}
		if bundle != nil && !bytes.Equal(bundle, w.ClientConfig.CABundle) {
			return nil, fmt.Errorf("the webhook %s has another caBundle than the others", w.Name)
		}
		bundle = w.ClientConfig.CABundle
	}
	if bundle == nil {
		return nil, fmt.Errorf("the configuration %s has no webhook", config.Name)
	}
	return bundle, nil
}

// checkWebhook shakes hands with each pod that serves it.
func (c *checkCommand) checkWebhook(ctx context.Context, bundle []byte) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return errors.New("the caBundle holds no certificate")
	}
	pods, err := c.k.componentPods(ctx, componentWebhook)
	if err != nil {
		return err
	}
	var errs []error
	for i := range pods {
		if podReady(&pods[i]) {
			errs = append(errs, c.shakeHands(ctx, &pods[i], roots))
		}
	}
	if len(errs) == 0 {
		return errors.New("no pod of weir-controller is ready")
	}
	return errors.Join(errs...)
}

func (c *checkCommand) shakeHands(ctx context.Context, pod *core.Pod, roots *x509.CertPool) error {
	raw, err := c.k.dial(ctx, pod.Namespace, pod.Name, namedPort(pod, "webhook", webhookPort))
	if err != nil {
		return err
	}
	conn := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "weir-controller." + c.k.namespace + ".svc", MinVersion: tls.VersionTLS12, Time: c.now})
	err = conn.HandshakeContext(ctx)
	// The handshake was all that was asked for.
	_ = conn.Close()
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	return nil
}

func (c *checkCommand) controlPlaneChecks() category {
	return category{"weir-control-plane", []check{{
		says: "each component has pods", hint: "control-plane", retry: true, fatal: true,
		do:  "see why there are none: `kubectl -n " + c.cluster.namespace + " describe deploy,sts`",
		run: c.checkComponents,
	}, {
		says: "the control plane's pods are running and ready", hint: "control-plane", retry: true,
		do:  "see why: `kubectl -n " + c.cluster.namespace + " describe pod NAME` and `kubectl -n " + c.cluster.namespace + " logs NAME`",
		run: c.checkReady,
	}, {
		says: "the control plane's containers do not restart", hint: "restarts", warn: true,
		do:  "see why the last one ended: `kubectl -n " + c.cluster.namespace + " logs NAME --previous`",
		run: func(context.Context) error { return c.checkRestarts() },
	}}}
}

func (c *checkCommand) checkComponents(ctx context.Context) error {
	var err error
	if c.pods, err = c.k.componentPods(ctx, ""); err != nil {
		return err
	}
	have := map[string]bool{}
	for i := range c.pods {
		have[c.pods[i].Labels[labelComponent]] = true
	}
	var missing []string
	for _, component := range components {
		if !have[component] {
			missing = append(missing, "weir-"+component)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no pod of %s in namespace %s", strings.Join(missing, ", "), c.k.namespace)
	}
	return nil
}

func (c *checkCommand) checkReady(ctx context.Context) error {
	if err := c.checkComponents(ctx); err != nil {
		return err
	}
	var wrong []string
	for i := range c.pods {
		if pod := &c.pods[i]; !podReady(pod) && pod.Status.Phase != core.PodSucceeded {
			status := podStatus(pod)
			if status == string(core.PodRunning) {
				status += ", not ready"
			}
			wrong = append(wrong, fmt.Sprintf("%s (%s)", pod.Name, status))
		}
	}
	if len(wrong) > 0 {
		return errors.New(some(wrong))
	}
	return nil
}

// recentRestart is how long a restart is spoken of.
const recentRestart = 10 * time.Minute

func (c *checkCommand) checkRestarts() error {
	var wrong []string
	for i := range c.pods {
		for _, s := range slices.Concat(c.pods[i].Status.InitContainerStatuses, c.pods[i].Status.ContainerStatuses) {
			last := s.LastTerminationState.Terminated
			if s.RestartCount > 0 && last != nil && c.now().Sub(last.FinishedAt.Time) < recentRestart {
				wrong = append(wrong, fmt.Sprintf("%s (%d, the last at %s: %s, exit code %d)", c.pods[i].Name, s.RestartCount,
					stampUTC(last.FinishedAt.Time), last.Reason, last.ExitCode))
			}
		}
	}
	if len(wrong) > 0 {
		return errors.New(some(wrong))
	}
	return nil
}
