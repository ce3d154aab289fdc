#!/usr/bin/env bash
# Runs a command in the lab: a QEMU machine without hardware acceleration whose emulated CPU has AMD-V, so that the
# genuine kvm_amd gives a /dev/kvm on any host. See README.md beside this file.
#
#   tests/lab/run.sh 'target/release/scribe-vmm doctor'
#   tests/lab/run.sh            a shell, when stdin and stdout are a terminal
set -euo pipefail

usage() {
  cat >&2 <<'END'
usage: tests/lab/run.sh [CMD...]
  CMD is a shell command line (several words are joined by spaces), run in the checkout's root inside the lab.
  Without CMD: a shell, which needs a terminal. Leave the lab by its exit, or by Ctrl-] x.
environment:
  LAB_TIMEOUT  seconds CMD may take (600); then exit status 124
  LAB_MEMORY   MiB of RAM (1024)
  LAB_DISK     MiB of free disk space inside (1024; sparse)
  LAB_CPUS     processors (1)
  LAB_FILES    more files and folders to take along: absolute, or relative to the checkout; separated by white space
  LAB_ENV      names of more environment variables to pass on (RUST_BACKTRACE, RUST_LOG and SCRIBE_* always are)
  LAB_KEEP     1: keep the working folder target/lab/run.*
END
  exit 2
}

say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 125; }

if [[ ${1-} == -h || ${1-} == --help ]]; then usage; fi

here=$(cd "$(dirname "$0")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
lab=$root/target/lab
limit=${LAB_TIMEOUT:-600}
memory=${LAB_MEMORY:-1024}
disk=${LAB_DISK:-1024}
cpus=${LAB_CPUS:-1}
for number in "$limit" "$memory" "$disk" "$cpus"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || die "LAB_TIMEOUT, LAB_MEMORY, LAB_DISK and LAB_CPUS are whole numbers, not '$number'"
done

tty=0
if [[ -t 0 && -t 1 ]]; then tty=1; fi
command=$*
if [[ -z $command ]]; then
  (( tty )) || usage
  command='exec bash -i'
fi

for tool in qemu-system-x86_64 mke2fs busybox; do
  command -v "$tool" >/dev/null || die "$tool is missing: run scripts/setup.sh"
done
"$here/fetch-kernel.sh"

run=$(mktemp -d "$lab/run.XXXXXX")
qemu=
# shellcheck disable=SC2317 # called by the trap
clean_up() {
  # Only our own child; it is a `timeout` that passes the signal on.
  if [[ -n $qemu ]]; then kill "$qemu" 2>/dev/null || true; fi
  if (( tty )) && [[ -f $run/stty ]]; then stty "$(cat "$run/stty")" || true; fi
  if [[ ${LAB_KEEP:-0} == 1 ]]; then
    say "kept ${run#"$root"/}"
  else
    rm -rf "$run"
  fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the root disk -----------------------------------------------------------------------------------------------

tree=$run/tree
mkdir -p "$tree"/{usr/{bin,sbin,lib,lib64},proc,sys,dev,tmp,run,root,mnt,etc,lab/modules}
for folder in bin sbin lib lib64; do
  ln -s "usr/$folder" "$tree/$folder"
done

# place FILE [PATH]: FILE at PATH (default: its own path) in the tree. Hard links: a guest image is not copied twice.
place() {
  local file=$1 path=${2:-$1}
  mkdir -p "$tree${path%/*}"
  cp -lL "$file" "$tree$path" 2>/dev/null || cp --sparse=always -L "$file" "$tree$path"
}

# place_program FILE [PATH]: the same, with the shared libraries it is linked to.
place_program() {
  local library
  place "$@"
  while read -r library; do
    [[ -e $tree$library ]] || place "$library"
  done < <(ldd "$1" 2>/dev/null | sed -n 's/^.* => \(\/[^ ]*\) .*$/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*$/\1/p')
}

is_elf() { [[ -x $1 && $(head -c 4 "$1" | tr -d '\0') == $'\x7fELF' ]]; }

place "$(command -v busybox)" /usr/bin/busybox
place_program "$(command -v bash)" /usr/bin/bash

place "$here/init" /lab/init
chmod 755 "$tree/lab/init"
for file in "$lab"/kernel/*; do
  [[ $file == */vmlinuz ]] || place "$file" "/lab/modules/${file##*/}"
done

echo 'root:x:0:0:root:/root:/bin/bash' > "$tree/etc/passwd"
echo 'root:x:0:' > "$tree/etc/group"

# The checkout keeps its absolute path: test programs carry paths that were compiled into them.
take() {
  local file=$1
  if [[ -d $file ]]; then
    while IFS= read -r -d '' file; do
      if is_elf "$file"; then place_program "$file"; else place "$file"; fi
    done < <(find -L "$file" -type f -print0)
  elif is_elf "$file"; then
    place_program "$file"
  else
    place "$file"
  fi
}
mkdir -p "$tree$root/target/lab/out"
for file in target/release/scribe-vmm target/guest/demo.img target/guest/vmlinux target/guest/bzImage target/lab/bin tests scripts; do
  if [[ -e $root/$file ]]; then take "$root/$file"; fi
done
read -r -d '' -a more <<< "${LAB_FILES-}" || true
for file in "${more[@]}"; do
  [[ $file == /* ]] || file=$root/$file
  [[ -e $file ]] || die "LAB_FILES: $file does not exist"
  take "$file"
done

printf '%s\n' "$command" > "$tree/lab/cmd"
rows=24 columns=80
if (( tty )); then read -r rows columns < <(stty size); fi
cat > "$tree/lab/config" <<END
LAB_ROOT='$root'
LAB_TIMEOUT=$limit
LAB_TTY=$tty
LAB_ROWS=$rows
LAB_COLUMNS=$columns
END
{
  echo 'export HOME=/root LANG=C USER=root SHELL=/bin/bash SCRIBE_LAB=1'
  if (( tty )); then echo "export TERM=$(printf %q "${TERM:-linux}")"; fi
  for name in RUST_BACKTRACE RUST_LOG "${!SCRIBE_@}" ${LAB_ENV-}; do
    if [[ -n ${!name+set} && $name != SCRIBE_LAB ]]; then echo "export $name=$(printf %q "${!name}")"; fi
  done
} > "$tree/lab/env"

# No journal and no checksums: nobody reads this disk after a crash.
size=$(du -sm --apparent-size "$tree" | cut -f1)
truncate -s "$(( size + size / 10 + disk ))M" "$run/root.img"
mke2fs -q -F -t ext4 -O '^has_journal,^metadata_csum,^resize_inode' -E root_owner=0:0,lazy_itable_init=0 -b 4096 \
  -i 32768 -m 0 -d "$tree" "$run/root.img" >&2 || die "mke2fs failed: is there free disk space in target/?"
rm -rf "$tree"

# --- the machine -------------------------------------------------------------------------------------------------

# Regular files and `tail -f`, not pipes: QEMU may drop what a full pipe does not take when the guest powers off.
touch "$run"/{stdout,stderr,files,status,console}
ports=()
for port in stdout stderr files status; do
  ports+=(-chardev "file,id=$port,path=$run/$port" -device "virtserialport,chardev=$port,name=$port")
done
if (( tty )); then
  stty -g > "$run/stty"
  # Ctrl-A belongs to scribe-vmm's own console inside, so the way out of this one is Ctrl-] (29).
  ports+=(-chardev 'stdio,id=terminal,mux=on,signal=off' -echr 29 -device 'virtconsole,chardev=terminal')
fi

append='root=/dev/nvme0n1 rootfstype=ext4 rw rootwait init=/lab/init console=ttyS0 quiet panic=-1'
# Less work for an emulated processor; tsc=reliable also stops the clock from being changed under a running test.
# The emulated processor leaves the flags that BT does not define to where its translation blocks begin, and a nested page
# fault begins one. So a guest's pages must be mapped in one way only: no huge pages, which come and go with the host's
# free memory (README.md, "What the lab is not").
append+=' transparent_hugepage=never'
append+=' mitigations=off nokaslr audit=0 tsc=reliable no_timer_check'
arguments=(
  -M q35 -accel tcg -cpu 'max,+svm,+npt' -smp "$cpus" -m "$memory"
  -nodefaults -no-user-config -no-reboot -display none -monitor none
  -kernel "$lab/kernel/vmlinuz"
  -append "$append"
  -chardev "file,id=console,path=$run/console" -serial chardev:console
  -drive "file=$run/root.img,if=none,id=root,format=raw,cache=unsafe" -device 'nvme,drive=root,serial=lab'
  # ioeventfd=off: a write to a port is at its file when it returns, so powering off loses nothing.
  -device 'virtio-serial-pci,ioeventfd=off'
  "${ports[@]}"
)

# The lab counts the time limit itself, so that what CMD wrote until then still arrives. This is the net below it.
exec 9<&0
if (( ! tty )); then exec 9</dev/null; fi
timeout --foreground --signal=KILL "$(( limit + 120 ))" qemu-system-x86_64 "${arguments[@]}" <&9 &
qemu=$!
tails=()
if (( ! tty )); then
  tail -s 0.05 -q -c +1 -f --pid="$qemu" "$run/stdout" &
  tails+=($!)
  tail -s 0.05 -q -c +1 -f --pid="$qemu" "$run/stderr" >&2 &
  tails+=($!)
fi
code=0
wait "$qemu" || code=$?
qemu=
for tail in "${tails[@]}"; do wait "$tail" || true; done

if [[ -s $run/files ]]; then
  mkdir -p "$lab/out"
  tar -x --no-same-owner -C "$lab/out" -f "$run/files"
fi
status=$(cat "$run/status")
case $status in
timeout)
  say "stopped: CMD took more than $limit s (LAB_TIMEOUT)"
  exit 124
  ;;
[0-9]*)
  exit "$status"
  ;;
*)
  cp "$run/console" "$lab/console.log"
  if (( code == 137 )); then
    say "stopped: the lab did not come back within $(( limit + 120 )) s; kernel messages are in target/lab/console.log"
    exit 124
  fi
  tail -n 5 "$run/console" | tr -d '\r' >&2
  die "the lab ended without a status (QEMU: $code); kernel messages are in target/lab/console.log"
  ;;
esac
