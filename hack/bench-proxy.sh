#!/usr/bin/env bash
# bench-proxy.sh: compare bin/weir-proxy with nginx, haproxy and Go's ReverseProxy
# (see bench/proxy). Installs what is missing on Debian when root; else says what
# to install.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PATH:/usr/sbin # where Debian has nginx and haproxy
missing=()
command -v wrk >/dev/null || missing+=(wrk)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v nginx >/dev/null || missing+=(nginx)
command -v haproxy >/dev/null || missing+=(haproxy)
# nginx's part for TCP is a module of its own, unless it was built in.
[[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] || nginx -V 2>&1 | grep -qE -- '--with-stream( |$)' ||
  missing+=(libnginx-mod-stream)

if [[ ${#missing[@]} -gt 0 ]]; then
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
  else
    echo "make bench-proxy needs: ${missing[*]}. Install them (Debian: sudo apt-get install ${missing[*]}) and run it again." >&2
    exit 1
  fi
fi

go build -trimpath -o bin/bench-proxy ./bench/proxy
exec bin/bench-proxy
