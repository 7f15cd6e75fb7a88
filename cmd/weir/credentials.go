package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/control"
)

// credentials is `weir bus credentials`.
type credentials struct {
	kubeconfig, kubeContext string
	weir, namespace         string
	account                 string
	duration                time.Duration
	output                  string
}

// busCredentials is what a NATS client needs.
type busCredentials struct {
	// Server is the bus's address within the cluster.
	Server string `json:"server"`
	// User is who Kubernetes takes the token for, Expires its end.
	User    string    `json:"user"`
	Expires time.Time `json:"expires,omitzero"`
	Token   string    `json:"token"`
	// InboxPrefix is the only one that replies may be asked for with.
	InboxPrefix string `json:"inbox_prefix"`
	// TrustAnchors are what the bus proves its name by, PEM.
	TrustAnchors string `json:"trust_anchors"`
}

func newCredentials() *cobra.Command {
	var c credentials
	cmd := &cobra.Command{
		Use:   "credentials",
		Short: "Get short-lived credentials for the bus, for any NATS client",
		Long: `Get short-lived credentials for the bus of a Kubernetes cluster, for any NATS
client: a token, the prefix of inboxes that it may use, and the certificates
that the bus proves its name by.

With --service-account the token is that ServiceAccount's, made for it now;
without, it is the token by which the current kubectl context reaches the API
server. The bus lets its bearer hear the taps and statistics of the namespaces in
which they may "watch" "taps" of the API group weir.dev.`,
		Example: `  weir bus credentials --service-account watcher -n shop -o json
  eval "$(weir bus credentials --service-account watcher -n shop)"
  kubectl -n weir port-forward service/weir-bus 4222 &
  nats --server tls://localhost:4222 --token "$WEIR_BUS_TOKEN" --tlsca "$WEIR_BUS_CA" \
    --inbox-prefix "$WEIR_BUS_INBOX" sub 'weir.v1.tap.local.shop.>'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			case c.output != "env" && c.output != "json" && c.output != "token":
				return cli.Usagef(cmd, "--output %q: must be env, json or token", c.output)
			case c.duration < 10*time.Minute:
				return cli.Usagef(cmd, "--duration %s: Kubernetes makes tokens for 10m at least", c.duration)
			}
			return c.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "file that says how to reach Kubernetes (default: as kubectl)")
	f.StringVar(&c.kubeContext, "context", "", "the context of it to use (default: the current one)")
	f.StringVar(&c.weir, "weir-namespace", "weir", "Weir's own namespace")
	f.StringVarP(&c.namespace, "namespace", "n", "", "the ServiceAccount's namespace (default: the context's)")
	f.StringVar(&c.account, "service-account", "", "the ServiceAccount to get a token of (default: your own token)")
	f.DurationVar(&c.duration, "duration", time.Hour, "how long a ServiceAccount's token is to be valid")
	f.StringVarP(&c.output, "output", "o", "env", "output format: env (for eval), json, token")
	return cmd
}

func (c *credentials) run(ctx context.Context, out io.Writer) error {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.kubeconfig, Precedence: clientcmd.NewDefaultClientConfigLoadingRules().Precedence},
		&clientcmd.ConfigOverrides{CurrentContext: c.kubeContext})
	config, err := loader.ClientConfig()
	if err != nil {
		return fmt.Errorf("cannot reach Kubernetes: %w", err)
	}
	if c.namespace == "" {
		if c.namespace, _, err = loader.Namespace(); err != nil {
			return fmt.Errorf("cannot tell the namespace: %w", err)
		}
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot reach Kubernetes: %w", err)
	}
	got := busCredentials{Server: fmt.Sprintf("tls://%s.%s.svc:4222", busService, c.weir)}
	if c.account != "" {
		err = c.ofAccount(ctx, client, &got)
	} else {
		err = ofUser(ctx, client, config, &got)
	}
	if err != nil {
		return err
	}
	got.InboxPrefix = bus.InboxPrefix("", got.User)
	anchors, err := client.CoreV1().ConfigMaps(c.weir).Get(ctx, "weir-trust-anchors", meta.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the bus's trust anchors; is Weir installed in the namespace %s, and may you read its ConfigMaps? %w", c.weir, err)
	}
	got.TrustAnchors = anchors.Data["ca.crt"]
	return c.write(out, got)
}

// ofAccount gets a ServiceAccount's token.
func (c *credentials) ofAccount(ctx context.Context, client kubernetes.Interface, got *busCredentials) error {
	seconds := int64(c.duration / time.Second)
	request, err := client.CoreV1().ServiceAccounts(c.namespace).CreateToken(ctx, c.account, &authentication.TokenRequest{
		Spec: authentication.TokenRequestSpec{Audiences: []string{control.Audience}, ExpirationSeconds: &seconds},
	}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot get a token of the ServiceAccount %s/%s: %w", c.namespace, c.account, err)
	}
	got.Token, got.Expires = request.Status.Token, request.Status.ExpirationTimestamp.UTC()
	got.User = "system:serviceaccount:" + c.namespace + ":" + c.account
	return nil
}

// ofUser takes the token by which a request of the user's would be sent.
func ofUser(ctx context.Context, client kubernetes.Interface, config *rest.Config, got *busCredentials) error {
	seen := new(seenToken)
	wrapped, err := rest.HTTPWrappersForConfig(config, seen)
	if err != nil {
		return fmt.Errorf("cannot get your token: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes.invalid/", nil)
	if err != nil {
		return err
	}
	if _, err := wrapped.RoundTrip(request); !errors.Is(err, errSeen) { //nolint:bodyclose // there is no answer
		return fmt.Errorf("cannot get your token: %w", err)
	}
	if seen.token == "" {
		return errors.New("the kubectl context reaches Kubernetes without a token (by a client certificate, perhaps): name a ServiceAccount with --service-account")
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authentication.SelfSubjectReview{}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot ask Kubernetes who you are: %w", err)
	}
	got.Token, got.User = seen.token, review.Status.UserInfo.Username
	return nil
}

var errSeen = errors.New("seen")

// seenToken notes the token of a request instead of sending it.
type seenToken struct{ token string }

// RoundTrip notes and refuses.
func (s *seenToken) RoundTrip(r *http.Request) (*http.Response, error) {
	s.token, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return nil, errSeen
}

func (c *credentials) write(out io.Writer, got busCredentials) error {
	var err error
	switch c.output {
	case "token":
		_, err = fmt.Fprintln(out, got.Token)
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(got)
	default:
		// Clients take the certificates from a file.
		_, err = fmt.Fprintf(out, "export WEIR_BUS_SERVER=%s\nexport WEIR_BUS_TOKEN=%s\nexport WEIR_BUS_INBOX=%s\nexport WEIR_BUS_CA=$(mktemp)\ncat > \"$WEIR_BUS_CA\" <<'%s'\n%s\n%[5]s\n",
			got.Server, got.Token, shellWord(got.InboxPrefix), "END", strings.TrimSpace(got.TrustAnchors))
	}
	if err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	return nil
}

// shellWord quotes a text for a shell.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
