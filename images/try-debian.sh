#!/usr/bin/env bash
# Starts a Debian image under plain QEMU, on a machine whose virtio devices and power button Debian's kernel finds by ACPI: no
# scribe machine, nothing recorded. For work on the image. Words of CMD cannot hold blanks; without CMD: a login (root).
#
#   images/try-debian.sh [CMD...]   IMAGE=workloads: another image. FORWARD=HOSTPORT-:GUESTPORT: a port into the guest
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd -P)
name=${IMAGE:-debian}
image=$root/target/guest/$name.img
[[ -f $image ]] || { echo "image: target/guest/$name.img is missing: run images/build-$name.sh" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in vmlinuz initrd.img; do
  path=$(PATH=$PATH:/usr/sbin:/sbin debugfs -R "stat /$file" "$image" 2>/dev/null | sed -n 's/^Fast link dest: "\(.*\)"$/\1/p')
  PATH=$PATH:/usr/sbin:/sbin debugfs -R "dump /$path $work/$file" "$image" 2>/dev/null
done

# This machine has no timer that the kernel could measure the TSC by; QEMU's emulated processor has the TSC of the host.
khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)

run=
if (( $# > 0 )); then run="-- run $*"; fi
qemu-system-x86_64 -M microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,auto-kernel-cmdline=off -accel tcg -cpu max -m "${MEMORY:-512}" \
  -nodefaults -no-user-config -no-reboot -display none -global virtio-mmio.force-legacy=false \
  -chardev stdio,id=console,signal=off,mux=on -echr 29 -serial chardev:console -mon chardev=console \
  -kernel "$work/vmlinuz" -initrd "$work/initrd.img" \
  -drive "file=$image,if=none,id=root,format=raw,snapshot=on" -device virtio-blk-device,drive=root \
  -netdev "user,id=net${FORWARD:+,hostfwd=tcp:127.0.0.1:$FORWARD}" -device virtio-net-device,netdev=net \
  -device virtio-rng-device -append "root=/dev/vda rw console=ttyS0 ${APPEND-quiet} tsc_early_khz=$khz panic=-1 $run"
