#!/usr/bin/env bash
# size.sh: print the size of the binaries; fail where the proxy is past its budget.
# Most of an idle proxy's resident memory is its own code.
set -euo pipefail
cd "$(dirname "$0")/.."

# Interception (netlink, nftables) is half a MiB of it.
budget=$((8 * 1024 * 1024 + 512 * 1024))
for program in bin/weir bin/weir-proxy; do
  printf '%-16s %9d bytes\n' "$program" "$(wc -c <"$program")"
done
proxy=$(wc -c <bin/weir-proxy)
if [[ $proxy -gt $budget ]]; then
  echo "bin/weir-proxy is $((proxy - budget)) bytes past its budget of $budget" >&2
  exit 1
fi
