#!/usr/bin/env bash
# apt-install.sh PACKAGE…: install Debian packages, as root, and start none of the
# services that come with them.
set -euo pipefail

echo "installing $*" >&2
export DEBIAN_FRONTEND=noninteractive
# Debian asks this before it starts a service that it installs: the tests start
# servers of their own, and want no others on this machine.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
