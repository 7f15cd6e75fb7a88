#!/usr/bin/env bash
# test-cluster.sh: the tests of e2e/cluster, on Kubernetes clusters that they start and
# end themselves. The first time Kubernetes is built, which takes 6 to 15 minutes on
# two cores; after that it is cached (~/.cache/weir/cluster).
# With --can, only say why this machine is none for it, and fail, if it is not.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off CGO_ENABLED=0

if [[ ${1:-} == --can ]]; then
  why=
  [[ $(uname) == Linux ]] || why="it takes Linux"
  [[ -n $why || $(id -u) -eq 0 ]] || why="it takes root: sudo make test-cluster"
  [[ -n $why || -e /etc/debian_version ]] || why="this is not Debian: make test-cluster says what it lacks"
  echo "$why"
  [[ -z $why ]]
  exit
fi
hack/cluster-deps.sh tcpdump # to see that nothing is in clear text
hack/tools.sh helm >/dev/null  # to install the chart as Helm does

go -C e2e/cluster vet ./...
go -C tools/image vet ./...
go -C tools/image test ./...
# One package after the other: each has a cluster of its own.
status=0
go -C e2e/cluster test -count=1 -p 1 -timeout 45m "$@" ./... || status=$?
# What a test that was killed has left.
hack/cluster.sh sweep || status=1
exit $status
