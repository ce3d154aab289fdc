#!/usr/bin/env bash
# Installs every Debian package the project builds and tests with. Quick when all of them are there already.
#
#   scripts/setup.sh           install what is missing (needs root)
#   scripts/setup.sh --list    print the package names, install nothing
set -euo pipefail

packages=(
  # the guest kernel
  build-essential flex bison bc libelf-dev libssl-dev kmod linux-source-6.12 xz-utils zstd cpio
  # guest images
  busybox-static e2fsprogs tcc gcc-multilib mmdebstrap debian-archive-keyring
  # the lab (a nested machine with a real /dev/kvm) and the tests
  qemu-system-x86 tmux shellcheck bsdextrautils time
  # a guest's network without privileges
  passt
  # the test of the timeline's page
  chromium
)

if [[ ${1-} == --list ]]; then
  printf '%s\n' "${packages[@]}"
  exit 0
elif (( $# > 0 )); then
  echo "setup: usage: scripts/setup.sh [--list]" >&2
  exit 2
fi

if ! command -v dpkg-query apt-get >/dev/null; then
  echo "setup: this needs Debian 12 (apt-get, dpkg); elsewhere install the equivalents of: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done

root=$(cd "$(dirname "$0")/.." && pwd -P)
# The lab takes a kernel with `apt-get download`, so the package lists must be there even when no package is missing.
lists=absent
if apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
  lists=present
fi

if (( ${#missing[@]} == 0 )) && [[ $lists == present || -f $root/target/lab/kernel/version ]]; then
  echo "setup: all ${#packages[@]} packages are present" >&2
  exit 0
fi

if (( EUID != 0 )); then
  echo "setup: needs root to run apt-get; missing: ${missing[*]:-none}, package lists: $lists" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
echo "setup: apt-get update" >&2
apt-get -q update >&2
if (( ${#missing[@]} > 0 )); then
  echo "setup: installing ${missing[*]}" >&2
  apt-get -qy install --no-install-recommends "${missing[@]}" >&2
fi
echo "setup: done" >&2
