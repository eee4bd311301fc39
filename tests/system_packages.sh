#!/usr/bin/env bash
# What tests need of the distribution, where it can be had without asking: as root, on Debian and Ubuntu.
# Elsewhere, or if that fails, the tests that need it skip and say what is missing.
set -euo pipefail

# program:package
needed=(
  systemd-nspawn:systemd-container # boxes with a real systemd
  debootstrap:debootstrap          # their file system
  ip:iproute2                      # their network
  ssh:openssh-client               # how a fleet's box is provisioned
  podman:podman                    # the image: run
  buildah:buildah                  # ... built
  runc:runc                        # ... with a runtime that takes cgroups of both versions
  node:nodejs                      # OpenAI's Node client
  npm:npm
)

missing=()
for entry in "${needed[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
done
if ((${#missing[@]} == 0)) || ((EUID != 0)) || ! command -v apt-get >/dev/null; then
  exit 0
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Two runs at once wait for each other (Lock::Timeout).
if ! { apt-get -o DPkg::Lock::Timeout=300 update &&
  apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -5 "$log"
  echo "some tests will be skipped"
fi
