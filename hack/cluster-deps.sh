#!/usr/bin/env bash
# cluster-deps.sh: see to what a cluster needs beyond Go: a container runtime and what
# its network is made with. Installs what is missing on Debian when root; else says
# what to install. Further arguments are programs that are wanted too, named as their
# packages.
set -euo pipefail

# Servers may be where only root looks for them.
PATH=$PATH:/usr/sbin:/sbin
missing=()
command -v containerd >/dev/null && command -v ctr >/dev/null || missing+=(containerd)
command -v runc >/dev/null || missing+=(runc)
[[ -e /usr/lib/cni/bridge || -e /opt/cni/bin/bridge ]] || missing+=(containernetworking-plugins)
command -v nft >/dev/null || missing+=(nftables)
command -v ip >/dev/null || missing+=(iproute2)
command -v nsenter >/dev/null || missing+=(util-linux)
command -v sysctl >/dev/null || missing+=(procps)
for program in "$@"; do
  command -v "$program" >/dev/null || missing+=("$program")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
  exec "$(dirname "$0")/apt-install.sh" "${missing[@]}"
fi
echo "a cluster needs: ${missing[*]}. Install them (Debian: sudo apt-get install ${missing[*]}) and run it again." >&2
exit 1
