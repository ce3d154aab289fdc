#!/usr/bin/env bash
# Builds target/guest/debian.img: a minimal Debian 12 with its cloud kernel and initrd as packaged, systemd, and the unit that
# runs the command of the guest interface. The packages are those of the mirror at that time. Needs root.
#
#   images/build-debian.sh            build, unless the image is newer than its recipe
#   images/build-debian.sh --check    build again, beside it, and compare byte for byte
#   images/build-debian.sh -o FILE    build FILE, always
set -euo pipefail

label=debian
root=$(cd "$(dirname "$0")/.." && pwd -P)
# shellcheck source=images/lib.sh
source "$root/images/lib.sh"
# shellcheck source=images/debian.sh
source "$root/images/debian.sh"
target=$root/target/guest/debian.img
arguments "$@"

prepare() { :; }

debian_image debian 21 128
