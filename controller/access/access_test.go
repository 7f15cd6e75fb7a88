package access_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/access"
)

// who is what the API server knows of a token.
type who struct {
	user, audience, pod string
}

// cluster answers reviews: tokens are who they are, and watchers may watch, all
// namespaces where the value holds "".
type cluster struct {
	tokens   map[string]who
	watchers map[string][]string
	away     error
	reviews  int
}

func (c *cluster) gatekeeper(objects ...runtime.Object) *access.Gatekeeper {
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		c.reviews++
		if c.away != nil {
			return true, nil, c.away
		}
		review := a.(k8stesting.CreateAction).GetObject().(*authentication.TokenReview).DeepCopy()
		w, ok := c.tokens[review.Spec.Token]
		asked := ""
		if len(review.Spec.Audiences) > 0 {
			asked = review.Spec.Audiences[0]
		}
		if !ok || w.audience != asked {
			return true, review, nil
		}
		review.Status = authentication.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences, User: authentication.UserInfo{Username: w.user}}
		if w.pod != "" {
			review.Status.User.Extra = map[string]authentication.ExtraValue{"authentication.kubernetes.io/pod-name": {w.pod}}
		}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		review := a.(k8stesting.CreateAction).GetObject().(*authorization.SubjectAccessReview).DeepCopy()
		at := review.Spec.ResourceAttributes
		review.Status.Allowed = at.Verb == "watch" && at.Group == "weir.dev" && at.Resource == "taps" && slices.Contains(c.watchers[review.Spec.User], at.Namespace)
		return true, review, nil
	})
	return access.New(access.Options{Kubernetes: client, Logger: slog.New(slog.DiscardHandler)})
}

func controlledBy(kind, name string) []meta.OwnerReference {
	yes := true
	return []meta.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
}

func objects() []runtime.Object {
	namespace := func(name string) runtime.Object { return &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}} }
	return []runtime.Object{
		namespace("shop"), namespace("bank"), namespace("weir"),
		&core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "web-5d8-x", OwnerReferences: controlledBy("ReplicaSet", "web-5d8")}},
		&core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "weir", Name: "stray"}},
		&apps.ReplicaSet{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "web-5d8", OwnerReferences: controlledBy("Deployment", "web")}},
	}
}

func TestGrants(t *testing.T) {
	const account = "system:serviceaccount:"
	c := &cluster{
		tokens: map[string]who{
			"proxy":       {account + "shop:default", control.Audience, "web-5d8-x"},
			"gone":        {account + "shop:default", control.Audience, "web-5d8-gone"},
			"aggregator":  {account + "weir:weir-aggregator", control.Audience, "agg-0"},
			"controller":  {account + "weir:weir-controller", control.Audience, "ctl-0"},
			"imposter":    {account + "shop:weir-aggregator", control.Audience, "web-5d8-x"},
			"stray":       {account + "weir:default", control.Audience, "stray"},
			"kube":        {account + "weir:weir-aggregator", "", "agg-0"}, // meant for the API server
			"unbound":     {account + "shop:robot", control.Audience, ""},
			"jane":        {"jane", "", ""},
			"root":        {"root", "", ""},
			"joe":         {"joe", "", ""},
			"other-aud":   {account + "shop:default", "vault", "web-5d8-x"},
			"shop-reader": {account + "shop:reader", control.Audience, ""},
		},
		watchers: map[string][]string{"jane": {"shop"}, "root": {"", "shop", "bank"}, account + "shop:reader": {"shop"}},
	}
	g := c.gatekeeper(objects()...)
	for _, tt := range []struct {
		token   string
		name    string
		all     bool
		publish string
		hear    string
	}{
		{"proxy", "proxy shop/web-5d8-x", false, "weir.v1.events.local.shop.deploy.web weir.v1.rpc.identity.certify weir.v1.rpc.discovery.resolve",
			"_INBOX.shop.web-5d8-x.> weir.v1.tapped.local.shop.deploy.web weir.v1.endpoints.>"},
		{"imposter", "proxy shop/web-5d8-x", false, "weir.v1.events.local.shop.deploy.web weir.v1.rpc.identity.certify weir.v1.rpc.discovery.resolve",
			"_INBOX.shop.web-5d8-x.> weir.v1.tapped.local.shop.deploy.web weir.v1.endpoints.>"},
		{"stray", "proxy weir/stray", false, "weir.v1.events.local.weir.pod.stray weir.v1.rpc.identity.certify weir.v1.rpc.discovery.resolve",
			"_INBOX.weir.stray.> weir.v1.tapped.local.weir.pod.stray weir.v1.endpoints.>"},
		{"aggregator", "weir-aggregator", true, "", ""},
		{"controller", "weir-controller", false, "_INBOX.> weir.v1.endpoints.>",
			"weir.v1.rpc.identity.certify weir.v1.rpc.discovery.resolve weir.v1.rpc.inventory.workloads weir.v1.rpc.inventory.overview"},
		{"jane", "user jane", false, "", "_INBOX.=.jane.> weir.v1.tap.local.shop.> weir.v1.stats.local.shop.>"},
		{"root", "user root", false, "", "_INBOX.=.root.> weir.v1.tap.local.> weir.v1.stats.local.>"},
		{"shop-reader", "user system:serviceaccount:shop:reader", false, "",
			"_INBOX.=.system=3Aserviceaccount=3Ashop=3Areader.> weir.v1.tap.local.shop.> weir.v1.stats.local.shop.>"},
	} {
		got, err := g.Authenticate(t.Context(), tt.token)
		if err != nil {
			t.Errorf("%s: %v", tt.token, err)
			continue
		}
		if got.Name != tt.name || got.All != tt.all || strings.Join(got.Publish, " ") != tt.publish || strings.Join(got.Subscribe, " ") != tt.hear {
			t.Errorf("%s: got %+v", tt.token, got)
		}
		if person := strings.HasPrefix(tt.name, "user "); person == got.Expires.IsZero() {
			t.Errorf("%s: expires %v", tt.token, got.Expires)
		}
	}
	for _, token := range []string{"", "forged", "gone", "joe", "unbound", "other-aud", "kube"} {
		if got, err := g.Authenticate(t.Context(), token); !errors.Is(err, access.ErrRefused) {
			t.Errorf("%q: got %+v, %v, want a refusal", token, got, err)
		}
	}
}

func TestRemembers(t *testing.T) {
	c := &cluster{tokens: map[string]who{"proxy": {"system:serviceaccount:shop:default", control.Audience, "web-5d8-x"}}}
	g := c.gatekeeper(objects()...)
	for range 10 {
		if _, err := g.Authenticate(t.Context(), "proxy"); err != nil {
			t.Fatal(err)
		}
		_, _ = g.Authenticate(t.Context(), "forged")
	}
	if c.reviews > 4 {
		t.Errorf("%d reviews for two tokens", c.reviews)
	}
	// What could not be asked is not remembered.
	c.away = errors.New("connection refused")
	if _, err := g.Authenticate(t.Context(), "later"); err == nil || errors.Is(err, access.ErrRefused) {
		t.Errorf("error %v", err)
	}
	c.away, c.tokens["later"] = nil, c.tokens["proxy"]
	if _, err := g.Authenticate(t.Context(), "later"); err != nil {
		t.Error(err)
	}
	var m strings.Builder
	g.WriteMetrics(&m)
	if !strings.Contains(m.String(), "weir_bus_tokens_refused_total 1\n") {
		t.Errorf("metrics: %s", m.String())
	}
}
