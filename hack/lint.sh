#!/usr/bin/env bash
# lint.sh [ARG…]: golangci-lint over this module and those within it, by one
# configuration. Not over e2e/cluster/kubenode and e2e/cluster/coredns, a main function
# each, for which it would have to compile Kubernetes.
set -uo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off

bin=$(hack/tools.sh lint) || exit 1
status=0
for module in . e2e/cluster tools/image bench/telemetry; do
  [[ $module == . ]] || echo "in $module:" >&2
  (cd "$module" && "$bin/golangci-lint" run --config "$OLDPWD/.golangci.yml" "$@" ./...) || status=1
done
exit $status
