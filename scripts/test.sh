#!/usr/bin/env bash
# Every test: unit, property and golden tests, tiny guests and whole machines on the soft
# engine, tiny guests on this machine's /dev/kvm, whole machines in the lab.
# Run by `make test`, which builds the program, the guest kernel and the image first.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "test: $*" >&2; }
begun=$SECONDS
rm -rf target/tests
mkdir -p target/tests

say "unit, property and golden tests, guests on the soft engine, tiny guests on /dev/kvm"
cargo test --workspace --locked

say "recordings of whole machines, played in the tests' own processes"
recordings=()
for name in damaged killed live places size; do recordings+=(--test "recordings_$name"); done
recordings+=(--test chaos --test sync_injections)
cargo test --release --locked --package scribe-tests "${recordings[@]}"

say "the images are reproducible"
for image in demo check debian-initrd; do "images/build-$image.sh" --check; done

say "whole machines in the lab"
tests/lab/test.sh

skipped=0
if [[ -f target/tests/skipped ]]; then
  skipped=$(wc -l <target/tests/skipped)
  say "skipped on this host: $(paste -sd' ' target/tests/skipped)"
fi
say "all passed in $((SECONDS - begun)) s; $skipped skipped"
