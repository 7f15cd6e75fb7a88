package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// tree is the root of the source tree, seen from here.
const tree = "../../.."

// helm returns a way to run Helm itself, which it builds if need be, in the cluster.
func helm(t *testing.T, s *clustertest.Space) func(args ...string) string {
	t.Helper()
	build := exec.CommandContext(s.Ctx, filepath.Join(tree, "hack/tools.sh"), "helm")
	build.Stderr = os.Stderr
	tools, err := build.Output()
	if err != nil {
		t.Fatalf("cannot build Helm: %v", err)
	}
	program := filepath.Join(strings.TrimSpace(string(tools)), "helm")
	home := t.TempDir()
	return func(args ...string) string {
		t.Helper()
		cmd := s.Cluster.Command(s.Ctx, program, append([]string{"--namespace", "weir"}, args...)...)
		cmd.Env = append(cmd.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("helm %q: %v: %s", args, err, out)
		}
		return string(out)
	}
}

// checked holds that weir check finds nothing amiss, nor anything to warn of.
func checked(t *testing.T, s *clustertest.Space) {
	t.Helper()
	if out := printed(t, s, "check"); !strings.Contains(out, "√") || strings.Contains(out, "‼") || strings.Contains(out, "×") {
		t.Errorf("weir check is not content:\n%s", out)
	}
}

// authority is what an upgrade must not change.
func authority(s *clustertest.Space) string {
	return s.Kubectl("-n", "weir", "get", "secret/weir-identity-issuer", "secret/weir-bus-tls", "pvc/data-weir-bus-0", "configmap/weir-trust-anchors",
		"-o", "jsonpath={range .items[*]}{.metadata.uid}{.data}{end}")
}

// meshed holds that a pod that is made now gets a proxy, which becomes ready.
func meshed(s *clustertest.Space) {
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: meshed, labels: {app: meshed, weir.dev/inject: enabled}}
spec:
  containers:
  - {name: app, image: "` + clustertest.ImageTestapp + `", imagePullPolicy: Never, args: [serve, "0.0.0.0:8080"]}
`)
	s.Until("the pod has a proxy and is ready", func() error {
		out, err := s.Try("get", "pod", "meshed", "-o", `jsonpath={.spec.initContainers[*].name} {.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && strings.TrimSpace(out) != "weir-init weir-proxy True" {
			err = fmt.Errorf("it is: %s", out)
		}
		return err
	})
}

// asleep holds that weir stat lists what is scaled to 0.
func asleep(s *clustertest.Space) {
	s.Kubectl("create", "deployment", "asleep", "--image="+clustertest.ImageTestapp, "--replicas=0")
	s.Until("weir stat lists what is scaled to 0", func() error {
		out, err := s.Weir("stat", "deploy", "-n", s.Name)
		if err == nil && !regexp.MustCompile(`(?m)^asleep +0/0( +-)+$`).MatchString(out) {
			err = fmt.Errorf("it prints:\n%s", out)
		}
		return err
	})
}

// goneBut waits until nothing is left of Weir but what is named.
func goneBut(s *clustertest.Space, names ...string) {
	s.Until("nothing is left", func() error {
		if l := left(s); l != strings.Join(names, "\n") {
			return fmt.Errorf("there is still:\n%s", l)
		}
		return nil
	})
}

// TestHelm holds the way of an installation by Helm itself: of the chart's defaults it
// becomes ready, and meshes pods; an upgrade keeps the certificate authority and the
// volume; uninstalling leaves the namespace, which Helm made, and nothing in it.
func TestHelm(t *testing.T) {
	s := suite.Start(t)
	run := helm(t, s)
	t.Cleanup(func() { // if the test does not come to its end
		uninstall(t, s)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		s.Ctx = ctx // the test's own has ended
		if _, err := s.Try("delete", "namespace", "weir", "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	chart := filepath.Join(tree, "deploy/chart")
	// The images of this tree, by the tag that they have; the chart's own is a release's.
	out := run("install", "weir", chart, "--create-namespace", "--wait", clustertest.Timeout, "--set=images.tag=e2e")
	if !strings.Contains(out, "STATUS: deployed") {
		t.Errorf("helm install: %s", out)
	}
	ready(s)
	checked(t, s)
	meshed(s)
	asleep(s)
	if _, err := s.Weir("upgrade"); err == nil || !strings.Contains(err.Error(), "helm upgrade") {
		t.Errorf("weir upgrade of what Helm installed: %v", err)
	}

	before := authority(s)
	run("upgrade", "weir", chart, "--reuse-values", "--wait", clustertest.Timeout, "--set=verbose=true")
	ready(s)
	if after := authority(s); after != before {
		t.Errorf("an upgrade changed the issuer, the anchors, the bus's certificate or its volume:\n%s\n%s", before, after)
	}
	if args := s.Kubectl("-n", "weir", "get", "statefulset/weir-bus", "-o", "jsonpath={..args}"); !strings.Contains(args, "--verbose") {
		t.Errorf("an upgrade changed nothing: %s", args)
	}
	checked(t, s)

	run("uninstall", "weir", "--wait", clustertest.Timeout)
	// What Kubernetes itself puts into each namespace.
	goneBut(s, "namespace/weir", "configmap/kube-root-ca.crt", "serviceaccount/default")
}
