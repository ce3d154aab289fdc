#!/usr/bin/env bash
# Builds target/guest/demo.img: a whole-disk ext4 image with the guest kernel, busybox, our init and the workloads.
# The same inputs give the same bytes. See README.md beside this file.
#
#   images/build-demo.sh            build, unless the image is newer than everything it is made of
#   images/build-demo.sh --check    build again, beside it, and compare byte for byte
#   images/build-demo.sh -o FILE    build FILE, always
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

say() { echo "image: $*" >&2; }
die() { say "$*"; exit 1; }

images=$(cd "$(dirname "$0")" && pwd -P)
root=$(dirname "$images")
guest=$root/target/guest
kernel=$guest/vmlinux
image=$guest/demo.img
mode=cached
case ${1-} in
'') ;;
--check) mode=check ;;
-o) mode=always image=${2:?"image: -o needs a file name"} ;;
*)
  echo "usage: images/build-demo.sh [--check | -o FILE]" >&2
  exit 2
  ;;
esac

for tool in gcc mke2fs debugfs e2fsck busybox; do
  command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin
  command -v "$tool" >/dev/null || die "$tool is missing: run scripts/setup.sh"
done
busybox=$(command -v busybox)
[[ $(od -An -tx1 -N4 "$busybox" | tr -d ' ') == 7f454c46 ]] || die "$busybox is not a program"
[[ -f $kernel ]] || die "target/guest/vmlinux is missing: build the guest kernel first (make image)"

# --- is there anything to do? ------------------------------------------------------------------------------------

inputs() {
  (cd "$root" && find images -type f ! -name '*.md' -printf '%m ' -print | sort -k 2)
  (cd "$root" && find images -type f ! -name '*.md' -print0 | sort -z | xargs -0 sha256sum)
  sha256sum "$busybox" "$kernel" "$(gcc -print-file-name=libc.a)"
  gcc --version | head -n 1
  mke2fs -V 2>&1
}
stamp=$(inputs | sha256sum | cut -d ' ' -f 1)
if [[ $mode == cached && -f $image && -f $image.inputs && $(< "$image.inputs") == "$stamp" ]]; then
  say "target/guest/demo.img is up to date"
  exit 0
fi

work=$(mktemp -d "$guest/demo.XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- programs ----------------------------------------------------------------------------------------------------

# compile SOURCE PROGRAM
compile() {
  # Plain SSE2 arithmetic in program order, and nothing of this build's time or place in the file.
  gcc -std=gnu17 -O2 -Wall -Wextra -Werror -ffp-contract=off -fno-asynchronous-unwind-tables \
    "-ffile-prefix-map=$root=." "-DNAME=\"${2##*/}\"" -static -s -Wl,--build-id=none -o "$work/$2" "$images/$1" -lm
}
compile init/init.c init
compile init/scribe-bookmark.c bookmark
workloads=(clock entropy floats forks refuse signals spin writer)
for name in "${workloads[@]}"; do
  compile "workloads/$name.c" "$name"
done

# --- the file system ---------------------------------------------------------------------------------------------

# debugfs and not `mke2fs -d`: the latter copies each file's change time, which nobody can set, and takes a folder's
# entries in the order the host happens to list them. A script is in our order, owned by root, and needs no root.
script=$work/script
directory() { printf 'mkdir %s\nsif %s mode 04%s\n' "$1" "$1" "${2:-0755}"; }
file() { printf 'write "%s" %s\nsif %s mode 010%s\n' "$1" "$2" "$2" "${3:-0644}"; }
link() { printf 'symlink %s %s\n' "$1" "$2"; }
{
  for folder in bin boot dev etc mnt proc run sbin sys usr usr/bin usr/sbin usr/local usr/local/bin var var/log; do
    directory "/$folder"
  done
  directory /root 0700
  directory /tmp 1777
  link /var/run ../run
  link /var/tmp ../tmp
  link /etc/mtab ../proc/mounts
  file "$kernel" /boot/vmlinux
  file "$work/init" /sbin/init 0755
  file "$work/bookmark" /bin/bookmark 0755
  for name in "${workloads[@]}"; do
    file "$work/$name" "/bin/$name" 0755
  done
  for path in "$images"/root/bin/*; do
    file "$path" "/bin/${path##*/}" 0755
  done
  for path in "$images"/root/etc/*; do
    file "$path" "/etc/${path##*/}"
  done
  file "$busybox" /bin/busybox 0755
  while read -r applet; do
    case $applet in
    sbin/init | bin/busybox | linuxrc) ;; # ours, itself, and a relic
    *) link "/$applet" /bin/busybox ;;
    esac
  done < <(busybox --list-full | sort)
} > "$script"

# Room for the workloads: what they leave behind goes to a copy-on-write overlay, never into this file.
used=$(( ($(stat -c %s "$kernel") + $(cat "$work"/* "$busybox" | wc -c)) >> 20 ))
size=$(( (used + 24 + 15) / 16 * 16 ))
if (( size < 48 )); then size=48; fi

# Every choice is spelled out, or /etc/mke2fs.conf would make it. No journal: the image is never written back, so there is
# no crash to recover from, and each commit would be exits. No checksums: they protect against disks, not against us.
# No lazy initialisation: it is a kernel thread that writes to a fresh image for minutes.
{ echo '[fs_types]' && printf '%s = {\nblocksize = 4096\n}\n' ext4 small default; } > "$work/mke2fs.conf"
export E2FSPROGS_FAKE_TIME=1735689600 MKE2FS_CONFIG="$work/mke2fs.conf"
truncate -s "${size}M" "$work/image"
mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 -L demo \
  -O none,extent,filetype,dir_index,flex_bg,sparse_super,large_file,dir_nlink,extra_isize,ext_attr \
  -U 5c41be00-0000-4000-8000-000000000001 -e panic \
  -E hash_seed=5c41be00-0000-4000-8000-000000000002,lazy_itable_init=0,root_owner=0:0,nodiscard "$work/image"
# debugfs reports errors and goes on, with status 0.
debugfs -w -f "$script" "$work/image" > /dev/null 2> "$work/errors"
sed -i '/^debugfs 1\./d' "$work/errors"
[[ ! -s $work/errors ]] || die "debugfs: $(head -n 1 "$work/errors")"
e2fsck -fn "$work/image" > "$work/errors" 2>&1 || die "e2fsck: $(grep -v '^Pass' "$work/errors" | head -n 2 | tr '\n' ' ')"

if [[ $mode == check ]]; then
  [[ -f $image && -f $image.inputs && $(< "$image.inputs") == "$stamp" ]] || die "target/guest/demo.img is not up to date"
  cmp "$work/image" "$image" >&2 || die "a second build differs from target/guest/demo.img"
  say "a second build is identical ($(sha256sum < "$image" | cut -c 1-16))"
  exit 0
fi
chmod 644 "$work/image"
mv "$work/image" "$image"
[[ $mode == always ]] || echo "$stamp" > "$image.inputs"
say "$image: $size MiB, sha256 $(sha256sum < "$image" | cut -c 1-16)"
