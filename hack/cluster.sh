#!/usr/bin/env bash
# cluster.sh VERB [ARG…]: weir-cluster, built if need be. `make cluster-up` and the
# like run it; its own help says more.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
export GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off CGO_ENABLED=0

mkdir -p "$root/bin/.tools"
go build -C "$root/e2e/cluster" -trimpath -o "$root/bin/.tools/weir-cluster" ./cmd/weir-cluster
case ${1:-} in
up | build)
  verb=$1
  shift
  [[ $verb == build || $(id -u) -ne 0 ]] || "$root/hack/cluster-deps.sh"
  exec "$root/bin/.tools/weir-cluster" "$verb" --source "$root/e2e/cluster" "$@"
  ;;
*) exec "$root/bin/.tools/weir-cluster" "$@" ;;
esac
