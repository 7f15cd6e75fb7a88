#!/usr/bin/env bash
# bench-telemetry.sh compare|simulate: measure the telemetry pipeline beside the
# OpenTelemetry Collector, or simulate clusters (see bench/telemetry, a Go module
# of its own: building the Collector takes some minutes, once).
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:?usage: hack/bench-telemetry.sh compare|simulate}
bin=$PWD/bin
(
  cd bench/telemetry
  go build -trimpath -o "$bin/bench-telemetry" .
  if [[ $what == compare ]]; then
    go build -trimpath -ldflags '-s -w' -o "$bin/bench-collector" ./collector
  fi
)
exec "$bin/bench-telemetry" "$what"
