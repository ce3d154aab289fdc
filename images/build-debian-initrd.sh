#!/usr/bin/env bash
# Makes target/guest/debian/: Debian's cloud kernel exactly as packaged (vmlinuz), and an initramfs for it (initrd.img) with
# Debian's static busybox, our init, the demo's workloads and 32-bit programs. The same inputs give the same bytes.
#
#   images/build-debian-initrd.sh            build, unless it is newer than everything it is made of
#   images/build-debian-initrd.sh --check    build again, beside it, and compare byte for byte
#   images/build-debian-initrd.sh -o FILE    build the initramfs as FILE, always
set -euo pipefail

label=initrd
root=$(cd "$(dirname "$0")/.." && pwd -P)
# shellcheck source=images/lib.sh
source "$root/images/lib.sh"
folder=$root/target/guest/debian
target=$folder/initrd.img
arguments "$@"

need gcc cpio busybox
busybox=$(static_busybox)
mkdir -p "$folder"
"$root/tests/lab/fetch-kernel.sh"
if ! cmp -s "$root/target/lab/kernel/vmlinuz" "$folder/vmlinuz"; then
  cp "$root/target/lab/kernel/vmlinuz" "$folder/vmlinuz"
fi

stamp=$(stamp "$busybox" "$(gcc -m32 -print-file-name=libc.a)")
if nothing_to_do "$stamp"; then exit 0; fi

work=$(mktemp -d "$root/target/guest/initrd.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree"/{bin,dev,etc,mnt,proc,run,sbin,sys,tmp,usr/{bin,sbin,local/bin},var/log}
mkdir -m 0700 "$tree/root"
ln -s ../run "$tree/var/run"
ln -s ../proc/mounts "$tree/etc/mtab"

compile init/init.c "$tree/sbin/init" -DWITHOUT_DRIVER
compile init/scribe-bookmark.c "$tree/bin/bookmark"
for name in clock entropy floats forks signals spin writer; do
  compile "workloads/$name.c" "$tree/bin/$name"
done
compile checks/doubles.c "$tree/bin/doubles"
# SSE2 as in 64 bits: x87's excess precision would print other digits.
compile checks/doubles.c "$tree/bin/doubles32" -m32 -msse2 -mfpmath=sse
compile checks/compat.c "$tree/bin/compat" -m32
install -m 755 "$root/images/checks/compat.sh" "$tree/bin/check32"
install -m 755 "$root/images/initrd/init" "$tree/init"
install -m 755 "$root"/images/root/bin/* "$tree/bin/"
install -m 644 "$root"/images/root/etc/* "$tree/etc/"
install -m 755 "$busybox" "$tree/bin/busybox"
while read -r applet; do
  case $applet in
  sbin/init | bin/busybox | linuxrc) ;; # ours, itself, and a relic
  *) ln -s /bin/busybox "$tree/$applet" ;;
  esac
done < <(busybox --list-full | sort)

# Not compressed: a guest would spend more on unpacking than it saves.
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$tree" && find . -mindepth 1 -printf '%P\n' | sort |
  cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/initrd.img"
deliver "$work/initrd.img" "$stamp"
