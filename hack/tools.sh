#!/usr/bin/env bash
# tools.sh MODULE: build the Go tools of tools/MODULE into bin/.tools, once for
# each version of its go.mod and go.sum. Prints the folder on stdout.
set -euo pipefail
cd "$(dirname "$0")/.."

module=${1:?usage: hack/tools.sh MODULE}
bin=$PWD/bin/.tools
stamp=$bin/.$module
want=$(cat "tools/$module/go.mod" "tools/$module/go.sum" <(go version) | cksum)

if [[ ! -f $stamp || $(<"$stamp") != "$want" ]]; then
  echo "building the tools of tools/$module (some minutes, once)" >&2
  mkdir -p "$bin"
  (cd "tools/$module" && GOBIN=$bin CGO_ENABLED=0 go install -buildvcs=false -trimpath tool) >&2
  echo "$want" >"$stamp"
fi
echo "$bin"
