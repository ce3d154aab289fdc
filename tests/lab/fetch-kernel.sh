#!/usr/bin/env bash
# Puts the lab's own kernel and the modules it loads into target/lab/kernel. Does nothing when they are there.
#
# The package is unpacked, not installed: installing a kernel drags in an initramfs and a boot loader's hooks, and the
# lab needs neither (NVMe and ext4 are built into Debian's cloud kernel).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
kernel=$root/target/lab/kernel

die() { echo "lab: $*" >&2; exit 1; }

# Load order. virtio is the way out for CMD's output, the last three are the point of the lab.
modules=(
  drivers/virtio/virtio_ring.ko
  drivers/virtio/virtio.ko
  drivers/virtio/virtio_pci_modern_dev.ko
  drivers/virtio/virtio_pci_legacy_dev.ko
  drivers/virtio/virtio_pci.ko
  drivers/char/virtio_console.ko
  virt/lib/irqbypass.ko
  arch/x86/kvm/kvm.ko
  arch/x86/kvm/kvm-amd.ko
)

mkdir -p "$root/target/lab"
# Two labs may start at once in a fresh checkout.
exec 9>"$root/target/lab/kernel.lock"
flock 9
[[ -f $kernel/version ]] && exit 0

meta=linux-image-cloud-amd64
new=$(mktemp -d "$root/target/lab/kernel.XXXXXX")
trap 'rm -rf "$new"' EXIT

# download: sets `package` to what the meta package stands for today, and fetches it.
download() {
  package=$(apt-cache depends "$meta" 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | tail -n 1)
  [[ -n $package ]] || return 1
  echo "lab: fetching $package" >&2
  # As root apt would drop to a user that cannot write here, and warn about it.
  (cd "$new" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2)
}
if ! download; then
  # Old lists name packages that the mirror no longer has.
  (( EUID == 0 )) || die "cannot fetch the package behind $meta: run apt-get update as root, then try again"
  echo "lab: apt-get update" >&2
  apt-get -qq update >&2 || true
  download || die "cannot fetch the package behind $meta: this needs Debian 12 and its package mirror"
fi
dpkg-deb -x "$new"/*.deb "$new/x"

release=${package#linux-image-}
mkdir "$new/kernel"
cp "$new/x/boot/vmlinuz-$release" "$new/kernel/vmlinuz"
for module in "${modules[@]}"; do
  cp "$new/x/lib/modules/$release/kernel/$module" "$new/kernel/"
  basename "$module" >> "$new/kernel/modules"
done
# `version` is written last and moved with the rest: it says that the folder is complete.
basename "$new"/*.deb .deb > "$new/kernel/version"
chmod 755 "$new/kernel"
rm -rf "$kernel"
mv "$new/kernel" "$kernel"
