#!/usr/bin/env bash
# Builds target/guest/workloads.img: the Debian of build-debian.sh with redis, SQLite, Python, gcc, iperf3 and curl from its
# packages, and the programs of debian/workloads, which put them to work. Needs root.
#
#   images/build-workloads.sh            build, unless the image is newer than its recipe
#   images/build-workloads.sh --check    build again, beside it, and compare byte for byte
#   images/build-workloads.sh -o FILE    build FILE, always
set -euo pipefail

label=workloads
root=$(cd "$(dirname "$0")/.." && pwd -P)
# shellcheck source=images/lib.sh
source "$root/images/lib.sh"
# shellcheck source=images/debian.sh
source "$root/images/debian.sh"
target=$root/target/guest/workloads.img
arguments "$@"

prepare() {
  local name
  for name in "$root"/images/debian/workloads/*; do
    install -m 755 "$name" "$1/usr/local/bin/"
  done
  mkdir -p "$1/usr/local/share/workloads"
  install -m 644 "$root"/images/checks/{primes,doubles}.c "$1/usr/local/share/workloads/"
  # Its workload starts the server itself.
  rm -f "$1"/etc/systemd/system/{redis.service,multi-user.target.wants/redis-server.service}
}

debian_image workloads 31 256 redis-server redis-tools sqlite3 python3 gcc libc6-dev iperf3 curl
