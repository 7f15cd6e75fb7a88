package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runTool runs a load generator to its end. It is killed when ctx ends, or when
// it takes far longer than the load is to last.
func runTool(ctx context.Context, d time.Duration, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*d+20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cannot run %s: %w\n%s", strings.Join(argv, " "), err, out.String())
	}
	return out.String(), nil
}

// runWrk asks for url over so many connections of HTTP/1.1.
func runWrk(ctx context.Context, connections int, url string, d time.Duration) (result, error) {
	out, err := runTool(ctx, d, "wrk", "-t", strconv.Itoa(min(2, connections)), "-c", strconv.Itoa(connections),
		"-d", seconds(d), "--timeout", "10s", "--latency", url)
	if err != nil {
		return result{}, err
	}
	return parseWrk(out)
}

var (
	wrkTotal   = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([\d.]+[a-z]+),`)
	wrkLatency = regexp.MustCompile(`(?m)^\s*(50|99)%\s+([\d.]+[a-z]+)$`)
	wrkFault   = regexp.MustCompile(`(?m)^\s*(Non-2xx or 3xx responses: .*|Socket errors: .*)$`)
)

// parseWrk reads wrk's report. A request that failed is an error: figures of a
// load that was not carried say nothing.
func parseWrk(out string) (result, error) {
	total := wrkTotal.FindStringSubmatch(out)
	if total == nil {
		return result{}, fmt.Errorf("cannot read wrk's report:\n%s", out)
	}
	if fault := wrkFault.FindString(out); fault != "" {
		return result{}, fmt.Errorf("wrk saw failures: %s", strings.TrimSpace(fault))
	}
	units, err := strconv.ParseFloat(total[1], 64)
	if err != nil {
		return result{}, err
	}
	r := result{units: units}
	if r.elapsed, err = time.ParseDuration(total[2]); err != nil {
		return result{}, err
	}
	for _, m := range wrkLatency.FindAllStringSubmatch(out, -1) {
		d, err := time.ParseDuration(m[2])
		if err != nil {
			return result{}, err
		}
		if m[1] == "50" {
			r.p50 = d
		} else {
			r.p99 = d
		}
	}
	return r, nil
}

// runH2load asks for url over so many connections of HTTP/2, each with so many
// streams at once.
func runH2load(ctx context.Context, connections, streams int, url string, d time.Duration, more ...string) (result, error) {
	argv := append([]string{"h2load", "-t", "1", "-c", strconv.Itoa(connections), "-m", strconv.Itoa(streams),
		"-D", seconds(d)}, more...)
	out, err := runTool(ctx, d, append(argv, url)...)
	if err != nil {
		return result{}, err
	}
	r, err := parseH2load(out)
	r.elapsed = d
	return r, err
}

var (
	h2Total  = regexp.MustCompile(`(?m)^requests: (\d+) total, .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2Status = regexp.MustCompile(`(?m)^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
	h2Time   = regexp.MustCompile(`(?m)^time for request:\s+\S+\s+\S+\s+(\S+)`)
)

// parseH2load reads h2load's report.
func parseH2load(out string) (result, error) {
	total, status, mean := h2Total.FindStringSubmatch(out), h2Status.FindStringSubmatch(out), h2Time.FindStringSubmatch(out)
	if total == nil || status == nil || mean == nil {
		return result{}, fmt.Errorf("cannot read h2load's report:\n%s", out)
	}
	if total[4] != "0" || total[5] != "0" || total[6] != "0" || status[3] != "0" || status[4] != "0" {
		return result{}, fmt.Errorf("h2load saw failures: %s; %s", total[0], status[0])
	}
	units, err := strconv.ParseFloat(total[2], 64)
	if err != nil {
		return result{}, err
	}
	d, err := time.ParseDuration(mean[1])
	return result{units: units, mean: d}, err
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }
