#!/usr/bin/env bash
# generate.sh: write the Go code, the HTTP gateway and the OpenAPI document of
# api/weirpb/weir.proto. With --verify, fail if that changes anything.
set -euo pipefail
cd "$(dirname "$0")/.."

out=api/weirpb
tools=$(hack/tools.sh generate)
export PATH=$tools:$PATH

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp "$out"/* "$before"

(cd api && buf lint && buf generate)

if [[ ${1:-} == --verify ]] && ! diff -r "$before" "$out" >&2; then
  echo "$out is not what weir.proto generates: it was regenerated now; commit it" >&2
  exit 1
fi
