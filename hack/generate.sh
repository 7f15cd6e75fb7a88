#!/usr/bin/env bash
# generate.sh: write what is generated from .proto files: the API's Go code, HTTP
# gateway and OpenAPI document, and the sample application's gRPC code; and from
# deploy/values the chart's values.
# With --verify, fail if that changes anything.
set -euo pipefail
cd "$(dirname "$0")/.."

outs=(api/weirpb demo/app/emojipb)
tools=$(hack/tools.sh generate)
export PATH=$tools:$PATH

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
for out in "${outs[@]}"; do
  mkdir -p "$before/$out"
  cp "$out"/* "$before/$out"
done

(cd api && buf lint && buf generate)

plugin='"out": "demo/app", "opt": "paths=source_relative"'
buf generate demo/app --template "{\"version\": \"v2\", \"plugins\": [
  {\"local\": \"protoc-gen-go\", $plugin}, {\"local\": \"protoc-gen-go-grpc\", $plugin}]}"

# The chart's values.yaml, its schema and the golden files, from deploy/values.
if [[ ${1:-} == --verify ]]; then
  go test ./deploy/chart -count=1
else
  # The golden files are rendered with the schema that is built in: that one first.
  go test ./deploy/chart -count=1 -run '^TestGenerated$' -update
  go test ./deploy/chart -count=1 -update
fi

if [[ ${1:-} == --verify ]]; then
  for out in "${outs[@]}"; do
    if ! diff -r "$before/$out" "$out" >&2; then
      echo "$out is not what its .proto generates: it was regenerated now; commit it" >&2
      exit 1
    fi
  done
fi
