#!/usr/bin/env bash
# What build-debian.sh and build-workloads.sh share: a Debian of packages exactly as they are on the mirror, with the few
# files of debian/root on top, as a whole-disk ext4 image. Sourced by them, behind lib.sh.
# shellcheck disable=SC2154 # root, target and mode are set there

release=bookworm

# What every Debian image has: a kernel with its initrd, systemd with udev, D-Bus for the power button, and the network by
# systemd-networkd, which is part of systemd and asks for its address again when the link comes back.
debian_packages=(linux-image-cloud-amd64 systemd-sysv udev dbus kmod zstd iproute2 procps)

# Nothing wakes up by itself, and nothing is carried over from one start to the next.
masked=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
  systemd-tmpfiles-clean.timer systemd-random-seed.service systemd-pstore.service)

# Nobody reads manuals in a guest. Licences stay.
excluded=('/usr/share/man/*' '/usr/share/info/*' '/usr/share/locale/*' '/usr/share/lintian/*' '/usr/share/bash-completion/*'
  '/usr/share/doc/*')

# sources: where this machine takes Debian's packages from, else the place where everybody does.
sources() {
  local found
  # shellcheck disable=SC2016
  found=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Identifier: Packages' 2>/dev/null |
    awk -v release="$release" '$4 == "Debian" && $3 == "main" && ($2 == release || $2 ~ "^" release "-(updates|security)$") {
      print "deb", $1, $2, $3 }' | sort -u)
  if grep -q " $release main\$" <<<"$found"; then
    echo "$found"
  else
    default_sources
  fi
}

default_sources() {
  local mirror=http://deb.debian.org
  printf 'deb %s %s main\n' "$mirror/debian" "$release" "$mirror/debian" "$release-updates" \
    "$mirror/debian-security" "$release-security"
}

# bootstrap TREE PACKAGE...: a folder with the packages in it, set up as debian/root and the recipe say.
bootstrap() {
  local tree=$1 path options=() scheme proxy=
  shift
  for scheme in http https; do
    eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
    [[ -z $proxy ]] || options+=("--aptopt=Acquire::$scheme::Proxy \"$proxy\"")
  done
  for path in "${excluded[@]}"; do
    options+=("--dpkgopt=path-exclude=$path")
  done
  options+=('--dpkgopt=path-include=/usr/share/doc/*/copyright')

  # Under the same umask and locale everywhere. The initrd is made here, by initramfs-tools in the tree.
  sources | mmdebstrap --quiet --mode=root --variant=minbase --format=directory "${options[@]}" \
    --include="$(IFS=,; echo "$*")" "$release" "$tree" - >"$tree.log" 2>&1 ||
    die "mmdebstrap failed: $(grep -m 1 -E '^E: ' "$tree.log" || tail -n 1 "$tree.log")"
  rm -f "$tree/etc/apt/apt.conf.d/99mmdebstrap" "$tree/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
  default_sources >"$tree/etc/apt/sources.list"
  # The kernel makes its own.
  find "$tree/dev" -mindepth 1 -delete

  cp -a --no-preserve=ownership,timestamps "$root/images/debian/root/." "$tree/"
  for path in "${masked[@]}"; do
    ln -sf /dev/null "$tree/etc/systemd/system/$path"
  done
  rm -f "$tree/etc/systemd/system/getty.target.wants/getty@tty1.service" "$tree/etc/motd" "$tree/etc/.pwd.lock"
  ln -sf /lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
  enable "$tree" multi-user scribe-command.service /etc/systemd/system
  enable "$tree" multi-user systemd-networkd.service /lib/systemd/system
  # Root logs in without a password, at the console only: there is no other way in.
  sed -i 's/^root:[^:]*:/root::/' "$tree/etc/shadow"
  mkdir -p "$tree/usr/lib/systemd/system-shutdown" "$tree/usr/local/lib/scribe"
  compile init/scribe-service.c "$tree/usr/local/lib/scribe/command"
  ln -s /usr/local/lib/scribe/command "$tree/usr/lib/systemd/system-shutdown/scribe"
  compile init/scribe-bookmark.c "$tree/usr/local/bin/bookmark"
  # Newer than /usr, so that no start rebuilds caches that are there.
  for path in etc var; do
    echo "TIMESTAMP_NSEC=${SOURCE_DATE_EPOCH}000000000" >"$tree/$path/.updated"
  done
}

# enable TREE TARGET UNIT FOLDER: what `systemctl enable` does.
enable() {
  mkdir -p "$1/etc/systemd/system/$2.target.wants"
  ln -sf "$4/$3" "$1/etc/systemd/system/$2.target.wants/$3"
}

# versions TREE: the packages in it, a line each.
versions() { dpkg-query --admindir="$1/var/lib/dpkg" -W -f='${Package} ${Version}\n' | sort; }

# script_of TREE: lines of a debugfs script that make an empty file system the same as TREE. Times are those of the files, but
# none is later than ours.
script_of() {
  find "$1" -mindepth 1 -printf '%P\t%y\t%m\t%U\t%G\t%T@\t%n\t%i\t%l\n' | sort -t $'\t' -k 1,1 |
    awk -F '\t' -v tree="$1" -v latest="$SOURCE_DATE_EPOCH" '
      function own() {
        if ($4 != 0) printf "sif \"%s\" uid %d\n", path, $4
        if ($5 != 0) printf "sif \"%s\" gid %d\n", path, $5
      }
      function mode(kind) { printf "sif \"%s\" mode 0%s%04d\n", path, kind, $3 }
      { path = "/" $1; time = int($6); if (time > latest) time = latest }
      /"/ { print "a name with a quotation mark: " $1 > "/dev/stderr"; exit 1 }
      $2 == "d" { printf "mkdir \"%s\"\n", path; mode(4); own(); next }
      $2 == "l" { printf "symlink \"%s\" \"%s\"\n", path, $9; own(); next }
      $2 != "f" { print "neither file, directory nor link: " $1 > "/dev/stderr"; exit 1 }
      $7 > 1 && $8 in first {
        printf "ln \"%s\" \"%s\"\nsif \"%s\" links_count %d\n", first[$8], path, path, ++links[$8]
        next
      }
      {
        printf "write \"%s%s\" \"%s\"\n", tree, path, path
        mode(10); own()
        printf "sif \"%s\" mtime @%d\n", path, time
        first[$8] = path; links[$8] = 1
      }'
}

# debian_image LABEL NUMBER MIB PACKAGE...: the image `target`, of a tree that `prepare TREE` has its turn at, with MIB of room.
debian_image() {
  local name=$1 number=$2 room=$3 stamp work used
  shift 3
  # Not all of images/: to build one of these costs minutes and the network.
  recipes=(images/{lib,debian}.sh "images/build-$name.sh" images/init images/debian/root)
  [[ $name != workloads ]] || recipes+=(images/debian/workloads images/checks)
  need gcc mke2fs debugfs e2fsck mmdebstrap apt-get dpkg-query
  stamp=$(stamp "$(command -v mke2fs)" "$(command -v mmdebstrap)")
  if nothing_to_do "$stamp"; then exit 0; fi
  ((EUID == 0)) || die "this needs root: packages are set up in a chroot"

  work=$(mktemp -d "$root/target/guest/$name.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf --one-file-system '$work'" EXIT
  say "packages from the mirror (about two minutes)"
  bootstrap "$work/tree" "${debian_packages[@]}" "$@"
  prepare "$work/tree"
  versions "$work/tree" >"$work/packages"
  if [[ $mode == check ]]; then
    cmp -s "$work/packages" "$target.packages" ||
      die "the mirror has other packages by now: $(comm -13 "$target.packages" "$work/packages" | head -n 1)"
  fi

  script_of "$work/tree" >"$work/script"
  used=$(du -sm --apparent-size "$work/tree" | cut -f 1)
  # What small files waste, and room for what the guest writes: it goes to an overlay, never into this file.
  file_system "$work/script" "$work/image" $(((used * 9 / 8 + room + 15) / 16 * 16)) "$name" "$number"
  deliver "$work/image" "$stamp"
  [[ $mode == check ]] || cp "$work/packages" "$target.packages"
}
