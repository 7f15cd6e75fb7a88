#!/usr/bin/env bash
# test-deps.sh: see to what `make test` needs beyond Go: a C compiler, which the
# race detector links with; Chromium, which the end-to-end tests drive; curl and
# nghttpd, which the proxy is held against; Prometheus, which scrapes the API; and
# for the tests of interception ip, nft and tcpdump, and real servers with their clients.
# Installs what is missing on Debian when root; else says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v "${CC:-gcc}" >/dev/null || missing+=(gcc libc6-dev)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  missing+=(chromium)
command -v curl >/dev/null || missing+=(curl)
command -v nghttpd >/dev/null || missing+=(nghttp2-server)
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
# Servers may be where only root looks for them.
PATH=$PATH:/usr/sbin:/sbin
command -v ip >/dev/null || missing+=(iproute2)
command -v nft >/dev/null || missing+=(nftables)
command -v tcpdump >/dev/null || missing+=(tcpdump)
command -v nginx >/dev/null || missing+=(nginx)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v redis-cli >/dev/null || missing+=(redis-tools)
command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null || missing+=(mariadb-server-core)
command -v mariadb >/dev/null || missing+=(mariadb-client-core)
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
  exec hack/apt-install.sh "${missing[@]}"
else
  echo "make test needs: ${missing[*]}. Install them (Debian: sudo apt-get install ${missing[*]}) and run it again." >&2
  exit 1
fi
