#!/usr/bin/env bash
# Builds target/guest/check.img: kernel and init of the demo image, bash, sha256sum and tcc as Debian packages them, with
# the shared C library and its headers, and what /bin/check checks with them. The same inputs give the same bytes.
#
#   images/build-check.sh            build, unless the image is newer than everything it is made of
#   images/build-check.sh --check    build again, beside it, and compare byte for byte
#   images/build-check.sh -o FILE    build FILE, always
set -euo pipefail

label=check-image
root=$(cd "$(dirname "$0")/.." && pwd -P)
# shellcheck source=images/lib.sh
source "$root/images/lib.sh"
kernel=$root/target/guest/vmlinux
target=$root/target/guest/check.img
arguments "$@"

need gcc mke2fs debugfs e2fsck busybox tcc bash sha256sum
busybox=$(static_busybox)
[[ -f $kernel ]] || die "target/guest/vmlinux is missing: build the guest kernel first (make image)"

triplet=x86_64-linux-gnu
compiler=/usr/lib/$triplet/tcc
# What programs are linked to, and what the compiler links programs with.
programs=(/usr/bin/bash /usr/bin/sha256sum /usr/bin/tcc)
mapfile -t libraries < <(ldd "${programs[@]}" | sed -nE 's/^.* => (\/[^ ]*) .*$/\1/p' | sort -u)
parts=("$compiler/libtcc1.a" "/usr/lib/$triplet/"{crt1.o,crti.o,crtn.o,libc.so,libc_nonshared.a})
loader=/lib/$triplet/ld-linux-x86-64.so.2

# Headers: the compiler's own, and those of ISO C with what they include.
standard=(assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdarg stdbool stddef
  stdint stdio stdlib string time unistd wchar wctype)
mapfile -t headers < <(
  {
    find "$compiler/include" -name '*.h'
    printf '#include <%s.h>\n' "${standard[@]}" | gcc -std=gnu17 -M -x c - | grep -o '/usr/include/[^ ]*'
  } | sort -u)

stamp=$(stamp "$busybox" "$kernel" "$(command -v mke2fs)" "${programs[@]}" "${libraries[@]}" "${parts[@]}" "$loader" "${headers[@]}")
if nothing_to_do "$stamp"; then exit 0; fi

work=$(mktemp -d "$root/target/guest/check.XXXXXX")
trap 'rm -rf "$work"' EXIT

compile init/init.c "$work/init"
compile init/scribe-bookmark.c "$work/bookmark"
# Not static: it uses the same library as the programs that tcc makes.
gcc -std=gnu17 -O2 -Wall -Wextra -Werror -ffp-contract=off "-ffile-prefix-map=$root=." -s -Wl,--build-id=none \
  -o "$work/doubles" "$root/images/checks/doubles.c"
"$work/doubles" | sha256sum | cut -c 1-64 >"$work/doubles.sha256"
sha256sum "${programs[@]}" "${parts[@]}" "${libraries[@]}" >"$work/files.sha256"

# put FILE...: each at its own path, after the folders that it needs.
declare -A made=()
for folder in bin boot dev etc mnt proc run sbin sys usr usr/bin usr/sbin usr/local usr/local/bin var var/log; do
  made[/$folder]=1
done
parent() {
  [[ $1 == / || -n ${made[$1]-} ]] && return
  parent "$(dirname "$1")"
  made[$1]=1
  directory "$1"
}
put() {
  local path
  for path in "$@"; do
    parent "$(dirname "$path")"
    # Debian's libraries are in /usr/lib, and /lib leads there.
    file "$(realpath "$path")" "$path" "$(if [[ -x $path ]]; then echo 0755; else echo 0644; fi)"
  done
}

{
  base "$kernel" "$work"
  settings
  put "${programs[@]}" "${parts[@]}" "${libraries[@]}" "$loader" "${headers[@]}"
  link /bin/bash /usr/bin/bash
  parent /lib64
  link "/lib64/${loader##*/}" "$loader"
  file "$work/doubles" /bin/doubles 0755
  file "$root/images/checks/check" /bin/check 0755
  parent /usr/share/check
  for path in "$root"/images/checks/{primes,doubles}.c "$work"/{doubles,files}.sha256; do
    file "$path" "/usr/share/check/${path##*/}"
  done
  busybox_links "$busybox" usr/bin/sha256sum
} >"$work/script"

file_system "$work/script" "$work/image" 64 check 11
deliver "$work/image" "$stamp"
