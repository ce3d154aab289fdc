#!/usr/bin/env bash
# The checks that are not tests, each of which can be run alone: scripts/check.sh fmt clippy ...
set -euo pipefail
cd "$(dirname "$0")/.."

# cargo-deny is built once, below target/; its version is fixed so that a check does not change by itself.
deny_version=0.20.2
deny=target/tools/bin/cargo-deny

say() { echo "check: $*" >&2; }

check_fmt() { cargo fmt --all --check; }

check_clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

check_docs() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked; }

check_deny() {
  if [[ ! -x $deny ]]; then
    say "building cargo-deny $deny_version (once, some minutes)"
    cargo install --quiet --locked --root target/tools "cargo-deny@$deny_version"
  fi
  # Not `advisories`: its list would have to be fetched.
  "$deny" --workspace check bans licenses sources
}

# Two versions of a rust-vmm crate would make two incompatible sets of types.
check_duplicates() {
  local crate versions
  for crate in vm-memory vmm-sys-util kvm-bindings kvm-ioctls linux-loader virtio-queue vm-superio event-manager; do
    versions=$(grep -c "^name = \"$crate\"$" Cargo.lock)
    if ((versions != 1)); then
      say "Cargo.lock has $versions versions of $crate, wanted is one"
      return 1
    fi
  done
}

check_shellcheck() {
  local scripts
  mapfile -t scripts < <(git ls-files | while read -r file; do
    [[ -f $file ]] && head -c 64 "$file" | grep -aqE '^#!.*\b(bash|sh)\b' && echo "$file"
  done)
  shellcheck "${scripts[@]}"
}

all=(fmt clippy docs deny duplicates shellcheck)
for name in "${@:-${all[@]}}"; do
  say "$name"
  "check_$name"
done
say "passed: ${*:-${all[*]}}"
