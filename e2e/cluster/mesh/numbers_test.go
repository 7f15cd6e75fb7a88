package mesh

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/weirmesh/weir/e2e/cluster/clustertest"
)

// server answers on port 80; its probe is no request.
const server = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      containers:
      - name: server
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080"]
        readinessProbe: {exec: {command: [/testapp, get, "http://127.0.0.1:8080"]}, periodSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`

func job(name string, requests int) string {
	return `
---
apiVersion: batch/v1
kind: Job
metadata: {name: ` + name + `}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: client}}
    spec:
      restartPolicy: Never
      containers:
      - name: client
        image: ` + clustertest.ImageTestapp + `
        imagePullPolicy: Never
        args: [get, "http://server", "` + strconv.Itoa(requests) + `"]
`
}

// TestShortJobs runs Jobs that live for some requests each: all complete, and every
// request is counted, on both sides.
func TestShortJobs(t *testing.T) {
	const jobs, batch, requests = 100, 10, 7
	s := start(t)
	inject(t, s, server)
	s.Rollout("server")
	for first := 0; first < jobs; first += batch {
		var text strings.Builder
		for n := first; n < first+batch; n++ {
			text.WriteString(job(fmt.Sprintf("client-%d", n), requests))
		}
		inject(t, s, text.String())
		s.Kubectl("wait", "--for=condition=Complete", "job", "--all", clustertest.Timeout)
	}
	s.Until("all requests are counted", func() error {
		rows, err := stat(s, "job")
		if err != nil {
			return err
		}
		var sent, completed uint64
		for _, r := range rows {
			sent += r.Requests
			if r.Requests == requests {
				completed++
			}
		}
		if sent != jobs*requests || completed != jobs {
			return fmt.Errorf("%d requests of %d Jobs are counted, want %d of %d", sent, completed, jobs*requests, jobs)
		}
		if err := whole(rows); err != nil {
			return err
		}
		served, err := stat(s, "deploy/server")
		if err != nil {
			return err
		}
		if len(served) != 1 || served[0].Requests != jobs*requests || served[0].Successes != jobs*requests {
			return fmt.Errorf("the server's requests: %+v, want %d", served, jobs*requests)
		}
		return whole(served)
	})
}

// TestCronJob runs what a CronJob would run: it completes, and is counted as the
// CronJob's.
func TestCronJob(t *testing.T) {
	const requests = 5
	s := start(t)
	spec := strings.ReplaceAll(strings.TrimPrefix(job("x", requests), "\n---"), "\n", "\n    ")
	_, spec, found := strings.Cut(spec, "spec:\n")
	if !found {
		t.Fatal("the job has no spec")
	}
	inject(t, s, server+`
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
`+spec)
	s.Rollout("server")
	s.Kubectl("create", "job", "--from=cronjob/nightly", "now")
	s.Kubectl("wait", "--for=condition=Complete", "job/now", clustertest.Timeout)
	s.Until("its requests are counted", func() error {
		rows, err := stat(s, "cronjob/nightly")
		if err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Requests != requests || rows[0].Successes != requests {
			return fmt.Errorf("weir stat says %+v, want %d requests", rows, requests)
		}
		return whole(rows)
	})
}
