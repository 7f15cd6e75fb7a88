package main

import (
	"context"
	"encoding/base64"
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

Without --service-account the token is your own, by which the current kubectl
context reaches the API server: one that is written there, or that an OIDC or
cloud plugin gets. A context that proves who you are by a client certificate has
none. With --service-account it is that ServiceAccount's, made for it now, and for
the bus alone. The bus lets its bearer hear the taps and statistics of the
namespaces in which they may "watch" "taps" of the API group weir.dev.`,
		Example: `  weir bus credentials -o json
  eval "$(weir bus credentials --service-account shop/watcher)"
  kubectl -n weir port-forward service/weir-bus 4222 &
  nats --server tls://localhost:4222 --token "$WEIR_BUS_TOKEN" --tlsca "$WEIR_BUS_CA" \
    --inbox-prefix "$WEIR_BUS_INBOX" sub 'weir.v1.tap.local.shop.>'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			case c.output != "env" && c.output != "json" && c.output != "token":
				return cli.Usagef(cmd, "--output %q: must be env, json or token", c.output)
			case strings.Count(c.account, "/") > 1 || strings.HasPrefix(c.account, "/") || strings.HasSuffix(c.account, "/"):
				return cli.Usagef(cmd, "--service-account %q: must be NAME or NAMESPACE/NAME", c.account)
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
	f.StringVar(&c.account, "service-account", "", "the ServiceAccount to get a token of, NAME or NAMESPACE/NAME (default: your own token)")
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
	if namespace, name, ok := strings.Cut(c.account, "/"); ok {
		c.namespace, c.account = namespace, name
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
	if as := config.Impersonate.UserName; as != "" {
		return fmt.Errorf("the kubectl context acts as %q, which your token does not say to the bus; %s", as, nameAccount)
	}
	token, err := ownToken(ctx, config)
	if err != nil {
		return fmt.Errorf("cannot get your token: %w", err)
	}
	if token == "" {
		return fmt.Errorf("there is no token to show to the bus: the kubectl context reaches Kubernetes %s; %s", withoutToken(config), nameAccount)
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authentication.SelfSubjectReview{}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot ask Kubernetes who you are: %w", err)
	}
	got.Token, got.User, got.Expires = token, review.Status.UserInfo.Username, expiry(token)
	return nil
}

// nameAccount is what to do without a token.
const nameAccount = "name a ServiceAccount that may watch taps, by --service-account NAMESPACE/NAME (docs/install.md says how to make one)"

// withoutToken says how a context without a token reaches Kubernetes.
func withoutToken(c *rest.Config) string {
	switch {
	case c.CertFile != "" || len(c.CertData) > 0:
		return "by a client certificate"
	case c.ExecProvider != nil:
		return fmt.Sprintf("by a client certificate, perhaps, which the program %s gets", c.ExecProvider.Command)
	case c.Username != "":
		return "by a password"
	}
	return "anonymously"
}

// ownToken is the token that a request would have; empty for none. Plugins that get
// one are asked.
func ownToken(ctx context.Context, config *rest.Config) (string, error) {
	seen := new(seenToken)
	wrapped, err := rest.HTTPWrappersForConfig(config, seen)
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes.invalid/", nil)
	if err != nil {
		return "", err
	}
	if _, err := wrapped.RoundTrip(request); !errors.Is(err, errSeen) { //nolint:bodyclose // there is no answer
		return "", err
	}
	return seen.token, nil
}

var errSeen = errors.New("seen")

// seenToken notes the token of a request instead of sending it.
type seenToken struct{ token string }

// RoundTrip notes and refuses.
func (s *seenToken) RoundTrip(r *http.Request) (*http.Response, error) {
	// A password would be "Basic …".
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		s.token = token
	}
	return nil, errSeen
}

// expiry is when a token says that it ends, if it is a JWT and does; it is the API
// server that checks it.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Exp, 0).UTC()
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
