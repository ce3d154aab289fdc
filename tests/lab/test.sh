#!/usr/bin/env bash
# Builds the whole-VM tests and runs them in the lab: two labs side by side, one for each half of the test programs.
#
#   tests/lab/test.sh                all of tests/tests/lab_*.rs
#   tests/lab/test.sh TEST...        those with TEST in their names, in one lab
# The program, the guest kernel and the image are built by `make build image`.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "test: $*" >&2; }
bin=target/lab/bin
programs=(lab_replay lab_console lab_ends lab_errors)

# Cargo says where it puts them. They are copied under plain names, to where run.sh takes them along.
mkdir -p "$bin"
arguments=()
for program in "${programs[@]}"; do arguments+=(--test "$program"); done
built=$(cargo test --no-run --locked --package scribe-tests "${arguments[@]}" --message-format=json-render-diagnostics)
for program in "${programs[@]}"; do
  path=$(sed -nE 's/.*"executable":"([^"]*\/'"$program"'-[0-9a-f]+)".*/\1/p' <<<"$built")
  [[ -f $path ]] || { say "cargo did not build $program"; exit 1; }
  cp "$path" "$bin/$program"
done

# in_lab PROGRAM...: runs them one after the other, all of them even if one fails.
in_lab() {
  local command='failed=0;' program
  for program in "$@"; do
    command+=" $bin/$program --test-threads=1 --nocapture ${filter[*]@Q} || failed=1;"
  done
  LAB_TIMEOUT=${LAB_TIMEOUT:-900} LAB_FILES="target/lab/kernel/vmlinuz ${LAB_FILES-}" tests/lab/run.sh "$command exit \$failed"
}

tests/lab/fetch-kernel.sh
filter=("$@")
if (( $# > 0 )); then
  in_lab "${programs[@]}"
  exit
fi

beside=$(mktemp)
trap 'rm -f "$beside"' EXIT
in_lab lab_console lab_errors >"$beside" 2>&1 &
second=$!
status=0
in_lab lab_replay lab_ends || status=1
wait "$second" || status=1
cat "$beside"
exit "$status"
