#!/usr/bin/env bash
# Builds the whole-VM tests (tests/tests/lab_*.rs), and those of tiny guests that want a KVM whose interrupt windows are
# exact and whose CPL 0 has every instruction, and copies their programs, under plain names, to target/lab/bin, where
# run.sh takes them along. Prints the names.
set -euo pipefail
cd "$(dirname "$0")/../.."

programs=()
for source in tests/tests/lab_*.rs tests/tests/golden.rs tests/tests/tiny_capture.rs tests/tests/tiny_record.rs \
  tests/tests/tiny_restore.rs tests/tests/tiny_steps.rs; do
  program=${source##*/}
  programs+=("${program%.rs}")
done
arguments=()
for program in "${programs[@]}"; do arguments+=(--test "$program"); done
built=$(cargo test --no-run --locked --package scribe-tests "${arguments[@]}" --message-format=json-render-diagnostics)
mkdir -p target/lab/bin
for program in "${programs[@]}"; do
  path=$(sed -nE 's/.*"executable":"([^"]*\/'"$program"'-[0-9a-f]+)".*/\1/p' <<<"$built")
  [[ -f $path ]] || { echo "stage-tests: cargo did not build $program" >&2; exit 1; }
  # A new file each time: a lab that is being made may hold a link to the old one.
  cp --remove-destination "$path" "target/lab/bin/$program"
  echo "$program"
done
