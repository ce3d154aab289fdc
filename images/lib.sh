#!/usr/bin/env bash
# What the recipes beside this file share: programs, file systems, and the question whether there is anything to do.
# Sourced by them. They set `label` (for messages) and `root` (the checkout) before.
export LC_ALL=C TZ=UTC
umask 022
# Everything that has a time has this one: 2025-01-01.
export SOURCE_DATE_EPOCH=1735689600

say() { echo "${label:?}: $*" >&2; }
die() { say "$*"; exit 1; }

# need TOOL...: finds them, also where root has them, or ends.
need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin
    command -v "$tool" >/dev/null || die "$tool is missing: run scripts/setup.sh"
  done
}

# static_busybox: its path.
static_busybox() {
  local busybox
  busybox=$(command -v busybox)
  [[ $(od -An -tx1 -N4 "$busybox" | tr -d ' ') == 7f454c46 ]] || die "$busybox is not a program"
  echo "$busybox"
}

# stamp FILE...: one number for the recipes and their sources (those in `recipes` if it is set), the files given, and the compiler.
stamp() {
  local from=("${recipes[@]-images}")
  {
    (cd "${root:?}" && find "${from[@]}" -type f ! -name '*.md' -printf '%m ' -print | sort -k 2)
    (cd "$root" && find "${from[@]}" -type f ! -name '*.md' -print0 | sort -z | xargs -0 sha256sum)
    sha256sum "$@" "$(gcc -print-file-name=libc.a)"
    gcc --version | head -n 1
  } | sha256sum | cut -d ' ' -f 1
}

# compile SOURCE PROGRAM [OPTION...]: a static program; SOURCE is below images/.
compile() {
  local source=$1 program=$2
  shift 2
  # Plain SSE2 arithmetic in program order, and nothing of this build's time or place in the file.
  gcc -std=gnu17 -O2 -Wall -Wextra -Werror -ffp-contract=off -fno-asynchronous-unwind-tables \
    "-ffile-prefix-map=$root=." "-DNAME=\"${program##*/}\"" -static -s -Wl,--build-id=none "$@" -o "$program" \
    "$root/images/$source" -lm
}

# --- file systems: lines of a debugfs script ---------------------------------------------------------------------

# debugfs and not `mke2fs -d`: the latter copies each file's change time, which nobody can set, and takes a folder's
# entries in the order the host happens to list them. A script is in our order, owned by root, and needs no root.
directory() { printf 'mkdir %s\nsif %s mode 04%s\n' "$1" "$1" "${2:-0755}"; }
file() { printf 'write "%s" %s\nsif %s mode 010%s\n' "$1" "$2" "$2" "${3:-0644}"; }
link() { printf 'symlink %s %s\n' "$1" "$2"; }

# base KERNEL WORK: what every image has: folders, kernel, init, bookmark, settings. WORK has the programs.
base() {
  local folder path
  for folder in bin boot dev etc mnt proc run sbin sys usr usr/bin usr/sbin usr/local usr/local/bin var var/log; do
    directory "/$folder"
  done
  directory /root 0700
  directory /tmp 1777
  link /var/run ../run
  link /var/tmp ../tmp
  link /etc/mtab ../proc/mounts
  file "$1" /boot/vmlinux
  file "$2/init" /sbin/init 0755
  file "$2/bookmark" /bin/bookmark 0755
}

# settings: the files of /etc.
settings() {
  local path
  for path in "$root"/images/root/etc/*; do
    file "$path" "/etc/${path##*/}"
  done
}

# busybox_links BUSYBOX [PATH...]: busybox, and a link for each applet except those at PATH (without the first slash).
busybox_links() {
  local busybox=$1 applet
  shift
  file "$busybox" /bin/busybox 0755
  while read -r applet; do
    case " sbin/init bin/busybox linuxrc $* " in
    *" $applet "*) ;; # ours, itself, and a relic
    *) link "/$applet" /bin/busybox ;;
    esac
  done < <(busybox --list-full | sort)
}

# file_system SCRIPT IMAGE MIB LABEL NUMBER: makes IMAGE by a script for debugfs; NUMBER (two digits) tells its UUIDs apart.
file_system() {
  local script=$1 image=$2 size=$3 name=$4 number=$5 work
  work=$(mktemp -d "$root/target/guest/fs.XXXXXX")
  # Every choice is spelled out, or /etc/mke2fs.conf would make it. No journal: the image is never written back, so there
  # is no crash to recover from, and each commit would be exits. No checksums: they protect against disks, not against us.
  # No lazy initialisation: it is a kernel thread that writes to a fresh image for minutes.
  { echo '[fs_types]' && printf '%s = {\nblocksize = 4096\n}\n' ext4 small default; } >"$work/mke2fs.conf"
  export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH MKE2FS_CONFIG="$work/mke2fs.conf"
  truncate -s "${size}M" "$image"
  mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 -L "$name" \
    -O none,extent,filetype,dir_index,flex_bg,sparse_super,large_file,dir_nlink,extra_isize,ext_attr \
    -U "5c41be00-0000-4000-8000-0000000000$number" -e panic \
    -E "hash_seed=5c41be00-0000-4000-8000-0000000000$(printf %02d $((10#$number + 1))),lazy_itable_init=0,root_owner=0:0,nodiscard" \
    "$image"
  # debugfs reports errors and goes on, with status 0.
  debugfs -w -f "$script" "$image" >/dev/null 2>"$work/errors"
  sed -i '/^debugfs 1\./d' "$work/errors"
  [[ ! -s $work/errors ]] || die "debugfs: $(head -n 1 "$work/errors")"
  e2fsck -fn "$image" >"$work/errors" 2>&1 ||
    die "e2fsck: $(grep -v '^Pass' "$work/errors" | head -n 2 | tr '\n' ' ')"
  rm -rf "$work"
}

# --- modes: build unless up to date, compare, build elsewhere ----------------------------------------------------

# arguments [ARGUMENT...]: sets `mode` and `target` from the recipe's own arguments; `target` is set before.
arguments() {
  mode=cached
  case ${1-} in
  '') ;;
  --check) mode=check ;;
  -o) mode=always target=${2:?"$label: -o needs a file name"} ;;
  *)
    echo "usage: $0 [--check | -o FILE]" >&2
    exit 2
    ;;
  esac
}

# is_current STAMP: `target` was made of the same things.
is_current() { [[ -f $target && -f $target.inputs && $(<"$target.inputs") == "$1" ]]; }

# nothing_to_do STAMP: is there? Said, if so.
nothing_to_do() {
  [[ $mode == cached ]] && is_current "$1" || return 1
  say "${target#"$root/"} is up to date"
}

# deliver BUILT STAMP: puts what was built in its place, or compares it with what is there.
deliver() {
  if [[ $mode == check ]]; then
    is_current "$2" || die "${target#"$root/"} is not up to date"
    cmp "$1" "$target" >&2 || die "a second build differs from ${target#"$root/"}"
    say "a second build is identical ($(sha256sum <"$target" | cut -c 1-16))"
    return
  fi
  chmod 644 "$1"
  mv "$1" "$target"
  [[ $mode == always ]] || echo "$2" >"$target.inputs"
  say "$target: $((($(stat -c %s "$target") + 1048575) >> 20)) MiB, sha256 $(sha256sum <"$target" | cut -c 1-16)"
}
