// Package access decides who may use the bus, and what for, by asking
// Kubernetes. A client shows a ServiceAccount's or a person's token:
//
//   - A token that is bound to a pod, meant for control.Audience, is a proxy's:
//     it may publish its own workload's events and use its own inbox.
//   - A ServiceAccount of Weir's own namespace with a component's name is that
//     component.
//   - Anyone else is a person (or a program in their stead): the namespaces that
//     the token's user may "watch" "taps" of (API group weir.dev; a
//     SubjectAccessReview) are those whose taps and statistics may be heard.
//
// Whoever gets nothing by these rules is refused.
package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/workload"
	"github.com/weirmesh/weir/event"
)

// APIGroup and Resource are what a person's right to watch is asked for.
const (
	APIGroup = "weir.dev"
	Resource = "taps"
)

// A decision is remembered for a minute at most, since rights are withdrawn and
// tokens end; a refusal more briefly, since rights are also granted.
const (
	rememberGrant   = time.Minute
	rememberRefusal = 5 * time.Second
	maxRemembered   = 16384
	// maxNamespaces bounds the questions that one person's token costs.
	maxNamespaces = 500
	// regrant is how long a person's connection lasts before the rights are
	// looked at anew.
	regrant = 15 * time.Minute
	// podExtra is where a TokenReview says which pod a token is bound to.
	podExtra = "authentication.kubernetes.io/pod-name"
)

// ErrRefused is wrapped by the errors of credentials that get nothing.
var ErrRefused = errors.New("refused")

// Grant is what a client may do: subjects, wildcards included, and how long.
type Grant struct {
	Name string
	// All permits everything.
	All                bool
	Publish, Subscribe []string
	Expires            time.Time
}

// Options of a Gatekeeper; Kubernetes is required.
type Options struct {
	Kubernetes kubernetes.Interface
	// Cluster is the name of this cluster in subjects; default "local".
	Cluster string
	// Namespace is Weir's own; default "weir".
	Namespace string
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Gatekeeper decides. Its methods are safe for concurrent use.
type Gatekeeper struct {
	o   Options
	log *slog.Logger

	mu sync.Mutex
	// remembered is guarded by mu.
	remembered map[[sha256.Size]byte]decision

	reviews, refusals atomic.Uint64
}

type decision struct {
	grant Grant
	err   error
	until time.Time
}

// New makes a Gatekeeper.
func New(o Options) *Gatekeeper {
	if o.Cluster == "" {
		o.Cluster = "local"
	}
	if o.Namespace == "" {
		o.Namespace = "weir"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Gatekeeper{o: o, log: o.Logger, remembered: make(map[[sha256.Size]byte]decision)}
}

// Authenticate decides over the bearer of a token. The error wraps ErrRefused
// where the token gets nothing; any other error means that Kubernetes could not
// be asked.
func (g *Gatekeeper) Authenticate(ctx context.Context, token string) (Grant, error) {
	if token == "" {
		return Grant{}, fmt.Errorf("%w: no token; show a ServiceAccount's token for the audience %q", ErrRefused, control.Audience)
	}
	key := sha256.Sum256([]byte(token))
	now := time.Now()
	g.mu.Lock()
	d, ok := g.remembered[key]
	g.mu.Unlock()
	if ok && now.Before(d.until) {
		return d.grant, d.err
	}
	grant, err := g.decide(ctx, token)
	switch {
	case err == nil:
		g.remember(key, decision{grant: grant, until: now.Add(rememberGrant)})
	case errors.Is(err, ErrRefused):
		g.refusals.Add(1)
		g.remember(key, decision{err: err, until: now.Add(rememberRefusal)})
	}
	return grant, err
}

func (g *Gatekeeper) remember(key [sha256.Size]byte, d decision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.remembered) >= maxRemembered {
		now := time.Now()
		for k, d := range g.remembered {
			if now.After(d.until) {
				delete(g.remembered, k)
			}
		}
		if len(g.remembered) >= maxRemembered {
			clear(g.remembered)
		}
	}
	g.remembered[key] = d
}

// decide asks Kubernetes.
func (g *Gatekeeper) decide(ctx context.Context, token string) (Grant, error) {
	g.reviews.Add(1)
	user, meant, err := g.review(ctx, token, control.Audience)
	if err != nil {
		return Grant{}, err
	}
	if user == nil {
		// A person's own token is meant for the API server.
		if user, _, err = g.review(ctx, token, ""); err != nil {
			return Grant{}, err
		}
	}
	if user == nil {
		return Grant{}, fmt.Errorf("%w: Kubernetes does not know the token (for the audience %q or its own), or it has expired", ErrRefused, control.Audience)
	}
	namespace, account, isAccount := serviceAccount(user.Username)
	if isAccount && meant {
		if namespace == g.o.Namespace {
			if grant, ok := componentGrant(account); ok {
				return grant, nil
			}
		}
		if pods := user.Extra[podExtra]; len(pods) == 1 {
			return g.proxyGrant(ctx, namespace, pods[0])
		}
	}
	return g.personGrant(ctx, user)
}

// review asks whose a token is; a nil user where it is nobody's for the
// audience. An empty audience is the API server's own.
func (g *Gatekeeper) review(ctx context.Context, token, audience string) (user *authentication.UserInfo, meant bool, err error) {
	spec := authentication.TokenReviewSpec{Token: token}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	review, err := g.o.Kubernetes.AuthenticationV1().TokenReviews().Create(ctx, &authentication.TokenReview{Spec: spec}, meta.CreateOptions{})
	if err != nil {
		return nil, false, fmt.Errorf("cannot ask Kubernetes whose the token is: %w", err)
	}
	if !review.Status.Authenticated {
		return nil, false, nil
	}
	for _, a := range review.Status.Audiences {
		meant = meant || a == audience
	}
	if audience != "" && !meant {
		return nil, false, nil // an API server that knows no audiences
	}
	return &review.Status.User, meant, nil
}

func serviceAccount(username string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(username, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

// proxyGrant is what the proxy of a pod may do.
func (g *Gatekeeper) proxyGrant(ctx context.Context, namespace, name string) (Grant, error) {
	pod, err := g.o.Kubernetes.CoreV1().Pods(namespace).Get(ctx, name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Grant{}, fmt.Errorf("%w: there is no pod %s/%s any more", ErrRefused, namespace, name)
	}
	if err != nil {
		return Grant{}, fmt.Errorf("cannot ask Kubernetes for the pod %s/%s: %w", namespace, name, err)
	}
	w, err := workload.Of(ctx, workload.API{Kubernetes: g.o.Kubernetes}, g.o.Cluster, &pod.ObjectMeta)
	if err != nil {
		return Grant{}, err
	}
	return Grant{
		Name:      "proxy " + namespace + "/" + name,
		Publish:   []string{bus.EventsSubject(w), bus.RPCSubject(control.IdentityService, control.CertifyMethod), bus.RPCSubject(control.DiscoveryService, control.ResolveMethod)},
		Subscribe: []string{bus.InboxPrefix(namespace, name) + ".>", bus.TappedSubject(w), bus.EndpointsFilter},
	}, nil
}

// personGrant is what a user may hear: the taps and statistics of all
// namespaces, or of those that they may watch.
func (g *Gatekeeper) personGrant(ctx context.Context, user *authentication.UserInfo) (Grant, error) {
	grant := Grant{Name: "user " + user.Username, Subscribe: []string{userInbox(user) + ".>"}, Expires: time.Now().Add(regrant)}
	hear := func(namespace string) {
		w := event.Workload{Cluster: g.o.Cluster, Namespace: namespace}
		grant.Subscribe = append(grant.Subscribe, allBelow(bus.TapFilter(w)), allBelow(bus.StatsFilter(w)))
	}
	all, err := g.mayWatch(ctx, user, "")
	if err != nil {
		return Grant{}, err
	}
	if all {
		hear("")
		return grant, nil
	}
	namespaces, err := g.o.Kubernetes.CoreV1().Namespaces().List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return Grant{}, fmt.Errorf("cannot ask Kubernetes for the namespaces: %w", err)
	}
	if n := len(namespaces.Items); n > maxNamespaces {
		return Grant{}, fmt.Errorf("%w: %s may not \"watch\" %s.%s in all namespaces, and there are too many (%d) to ask for each", ErrRefused, user.Username, Resource, APIGroup, n)
	}
	for i := range namespaces.Items {
		may, err := g.mayWatch(ctx, user, namespaces.Items[i].Name)
		if err != nil {
			return Grant{}, err
		}
		if may {
			hear(namespaces.Items[i].Name)
		}
	}
	if len(grant.Subscribe) == 1 {
		return Grant{}, fmt.Errorf("%w: %s may \"watch\" %s.%s in no namespace", ErrRefused, user.Username, Resource, APIGroup)
	}
	return grant, nil
}

// allBelow permits the wildcard ">", too: nothing else has these subjects.
func allBelow(filter string) string {
	for strings.HasSuffix(filter, ".*") {
		filter = strings.TrimSuffix(filter, ".*")
	}
	return filter + ".>"
}

// mayWatch asks whether a user may watch the taps of a namespace; "" stands for
// all of them.
func (g *Gatekeeper) mayWatch(ctx context.Context, user *authentication.UserInfo, namespace string) (bool, error) {
	extra := make(map[string]authorization.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorization.ExtraValue(v)
	}
	review, err := g.o.Kubernetes.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorization.SubjectAccessReview{
		Spec: authorization.SubjectAccessReviewSpec{
			User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
			ResourceAttributes: &authorization.ResourceAttributes{Namespace: namespace, Verb: "watch", Group: APIGroup, Resource: Resource},
		},
	}, meta.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("cannot ask Kubernetes what %s may watch: %w", user.Username, err)
	}
	return review.Status.Allowed, nil
}

// userInbox is what the subjects of a user's replies begin with.
func userInbox(user *authentication.UserInfo) string {
	return bus.InboxPrefix("", user.Username)
}

// WriteMetrics writes the counters in the format of Prometheus.
func (g *Gatekeeper) WriteMetrics(w io.Writer) {
	fmt.Fprintf(w, "weir_bus_token_reviews_total %d\n", g.reviews.Load())
	fmt.Fprintf(w, "weir_bus_tokens_refused_total %d\n", g.refusals.Load())
}
