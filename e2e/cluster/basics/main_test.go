package basics

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// suite is the cluster of all tests here; TestMain starts it before them.
var suite clustertest.Suite

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// get asks an address in the node's network.
func get(s *clustertest.Space, url string) (string, error) {
	transport := &http.Transport{DialContext: s.Cluster.DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// podList is what the tests read of pods.
type podList struct {
	Items []struct {
		Metadata struct{ Name, UID string }
		Status   struct {
			PodIP      string
			Conditions []struct{ Type, Status string }
		}
	}
}

// pods lists those with a label "app".
func pods(t *testing.T, s *clustertest.Space, app string) podList {
	t.Helper()
	var list podList
	if err := s.Cluster.Get(s.Ctx, "/api/v1/namespaces/"+s.Name+"/pods?labelSelector=app%3D"+app, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) == 0 {
		t.Fatalf("there is no pod with app=%s", app)
	}
	return list
}
