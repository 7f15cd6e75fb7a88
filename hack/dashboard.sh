#!/usr/bin/env bash
# dashboard.sh build|test: build the dashboard's pages into dashboard/web/dist, or
# run their unit tests. Warns and succeeds where Node 20 or newer is missing: all
# else builds and runs without it.
set -euo pipefail
cd "$(dirname "$0")/../dashboard/web"

major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/' || true)
if [[ -z $major || $major -lt 20 ]] || ! command -v npm >/dev/null; then
  echo "warning: no Node 20 or newer with npm: the dashboard's pages are not built; install it and run 'make build' again" >&2
  exit 0
fi

lock=node_modules/.package-lock.json
if [[ ! -f $lock || package-lock.json -nt $lock || package.json -nt $lock ]]; then
  npm ci --no-audit --no-fund --loglevel=error
fi

case ${1:-} in
  build)
    npm run build
    touch dist/index.html # newer than its sources, for make
    ;;
  test) npm test ;;
  *)
    echo "usage: hack/dashboard.sh build|test" >&2
    exit 2
    ;;
esac
