#!/usr/bin/env bash
# images.sh [FOLDER]: build the images of weir, weir-proxy and the sample application
# as tar files, without Docker: the same sources give the same bytes. REGISTRY, VERSION
# and COMMIT name them; VERSION is the tag. BIN is a folder to keep the binaries in.
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../bin/images}")
cd "$(dirname "$0")/.."
export GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off CGO_ENABLED=0

registry=${REGISTRY:-ghcr.io/weirmesh}
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
commit=${COMMIT:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ -n ${BIN:-} ]]; then
  mkdir -p "$BIN"
else
  BIN=$work
fi
# As `make build`, but for Linux wherever this runs.
GOOS=linux go build -trimpath -ldflags "-s -w -X main.version=$version -X main.commit=$commit" \
  -o "$BIN/" ./cmd/weir ./cmd/weir-proxy ./cmd/emojivoto
go build -C tools/image -trimpath -o "$work/make" ./make
"$work/make" -bin "$BIN" -out "$out" -registry "$registry" -tag "$version" -commit "$commit"
