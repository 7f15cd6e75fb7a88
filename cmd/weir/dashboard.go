package main

import (
	"context"
	"log/slog"
	"net/url"

	"github.com/weirmesh/weir/dashboard"
)

// serveDashboard is `weir dashboard --listen`.
func serveDashboard(ctx context.Context, api *url.URL, listen string) error {
	return serveHTTP(ctx, "the dashboard", "--listen", listen, dashboard.Handler(api, slog.Default()))
}
