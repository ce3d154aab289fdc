#!/usr/bin/env bash
# Runs a command of the demo image under plain QEMU with the lab's Debian kernel: no scribe machine, nothing recorded. For work
# on init and the workloads. Words of CMD cannot hold blanks; without CMD: a shell.
#
#   images/try.sh [CMD...]          IMAGE=check: of another image
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd -P)
image=$root/target/guest/${IMAGE:-demo}.img
[[ -f $image ]] || { echo "image: target/guest/${IMAGE:-demo}.img is missing: run images/build-${IMAGE:-demo}.sh" >&2; exit 1; }
"$root/tests/lab/fetch-kernel.sh"

run=
if (( $# > 0 )); then run="-- run $*"; fi
exec qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 256 -nodefaults -no-user-config -no-reboot -display none \
  -chardev stdio,id=console,signal=off,mux=on -echr 29 -serial chardev:console -kernel "$root/target/lab/kernel/vmlinuz" \
  -drive "file=$image,if=none,id=root,format=raw,snapshot=on" -device nvme,drive=root,serial=demo \
  -append "root=/dev/nvme0n1 rw rootwait console=ttyS0 quiet panic=-1 init=/sbin/init $run"
