#!/usr/bin/env bash
# Builds target/guest/demo.img: a whole-disk ext4 image with the guest kernel, busybox, our init and the workloads.
# The same inputs give the same bytes. See README.md beside this file.
#
#   images/build-demo.sh            build, unless the image is newer than everything it is made of
#   images/build-demo.sh --check    build again, beside it, and compare byte for byte
#   images/build-demo.sh -o FILE    build FILE, always
set -euo pipefail

label=image
root=$(cd "$(dirname "$0")/.." && pwd -P)
# shellcheck source=images/lib.sh
source "$root/images/lib.sh"
kernel=$root/target/guest/vmlinux
target=$root/target/guest/demo.img
arguments "$@"

need gcc mke2fs debugfs e2fsck busybox
busybox=$(static_busybox)
[[ -f $kernel ]] || die "target/guest/vmlinux is missing: build the guest kernel first (make image)"

stamp=$(stamp "$busybox" "$kernel" "$(command -v mke2fs)")
if nothing_to_do "$stamp"; then exit 0; fi

work=$(mktemp -d "$root/target/guest/demo.XXXXXX")
trap 'rm -rf "$work"' EXIT

compile init/init.c "$work/init"
compile init/scribe-bookmark.c "$work/bookmark"
workloads=(clock entropy floats forks race refuse signals spin writer)
for name in "${workloads[@]}"; do
  compile "workloads/$name.c" "$work/$name"
done

{
  base "$kernel" "$work"
  for name in "${workloads[@]}"; do
    file "$work/$name" "/bin/$name" 0755
  done
  for path in "$root"/images/root/bin/*; do
    file "$path" "/bin/${path##*/}" 0755
  done
  settings
  busybox_links "$busybox"
} >"$work/script"

# Room for the workloads: what they leave behind goes to a copy-on-write overlay, never into this file.
used=$((($(stat -c %s "$kernel") + $(cat "$work"/* "$busybox" | wc -c)) >> 20))
size=$(((used + 24 + 15) / 16 * 16))
if ((size < 48)); then size=48; fi
file_system "$work/script" "$work/image" "$size" demo 01
deliver "$work/image" "$stamp"
