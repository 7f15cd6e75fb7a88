#!/usr/bin/env bash
# fuzz.sh TIME: run each fuzz target of the tree for TIME (30s), one after another.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-30s}
found=$(git grep -lE '^func Fuzz[A-Z]' -- '*_test.go') || { echo "no fuzz target in the tree" >&2; exit 1; }
for file in $found; do
  dir=$(dirname "$file")
  mapfile -t targets < <(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file")
  for target in "${targets[@]}"; do
    echo "== $target in $dir for $time"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
  done
done
