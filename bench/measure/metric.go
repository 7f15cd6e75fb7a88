package measure

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metric reads /metrics of a component's admin address, host:port, and is the
// sum of a metric over all its labels.
func Metric(ctx context.Context, address, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	sum, found, err := SumMetric(string(text), name)
	if err == nil && !found {
		err = fmt.Errorf("%s has no metric %s", address, name)
	}
	return sum, err
}

// SumMetric sums a metric of a Prometheus text over all its labels; found is
// false where it is not there.
func SumMetric(text, name string) (sum float64, found bool, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		end := strings.IndexAny(line, " {")
		if end < 0 || line[:end] != name {
			continue
		}
		rest := line[end:]
		if brace := strings.LastIndexByte(rest, '}'); brace >= 0 {
			rest = rest[brace+1:]
		}
		value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, false, fmt.Errorf("cannot read metric %s: %w", name, err)
		}
		sum += v
		found = true
	}
	return sum, found, nil
}
