#!/usr/bin/env bash
# lint.sh [ARG…]: golangci-lint over this module and those within it, by one
# configuration, and shellcheck over the scripts where there is one. Not over
# e2e/cluster/kubenode and e2e/cluster/coredns, which choose what to link and start it:
# for their types the linters would have to compile all of Kubernetes and CoreDNS.
# `.ci/run` looks at their form, and e2e/cluster builds them.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off

bin=$(hack/tools.sh lint) || exit 1
status=0
for module in . e2e/cluster tools/image bench/telemetry; do
  [[ $module == . ]] || echo "in $module:" >&2
  (cd "$module" && "$bin/golangci-lint" run --config "$OLDPWD/.golangci.yml" "$@" ./...) || status=1
done
if command -v shellcheck >/dev/null; then
  shellcheck -x hack/*.sh .ci/run || status=1
else
  echo "lint: no shellcheck here: the scripts were not looked at" >&2
fi
exit $status
