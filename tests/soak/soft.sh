#!/usr/bin/env bash
# What the soft engine must show: runs whole machines on it, directly on this machine, and the fuzzer, and prints a table.
# Run by `make show-soft` (in short, under five minutes) and `make soak-soft` (full counts; the table also goes to
# docs/results.md). The program, the guest kernel and the images are built by `make image-check image-initrd build`.
#
#   tests/soak/soft.sh show|soak
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/soak/table.sh
source tests/soak/table.sh

say() { echo "soft: $*" >&2; }
mode=${1-}
[[ $mode == show || $mode == soak ]] || { echo "usage: tests/soak/soft.sh show|soak" >&2; exit 2; }
begun=$SECONDS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ $mode == show ]]; then
  export SCRIBE_TEST_REPLAYS=4 SCRIBE_TEST_SESSIONS=1
  cases=200000
else
  export SCRIBE_TEST_REPLAYS=100 SCRIBE_TEST_SESSIONS=5 SCRIBE_TEST_LOAD=2
  cases=10000000
fi

failed=0
# tests NAME PROGRAM [OPTION...]: a test program of scribe-tests; what it prints goes to a file NAME.
tests() {
  local name=$1 program=$2
  shift 2
  say "$program $*"
  cargo test --quiet --locked --package scribe-tests --test "$program" -- --test-threads=1 --show-output --format=pretty "$@" \
    >"$work/$name" 2>&1 || failed=1
}

cargo build --release --quiet --locked --package scribe-tests --bin fuzz-native
# First, while the machine is idle: it is a matter of speed.
tests 1 soft_guests fifty_million --include-ignored
tests 2 soft_guests
tests 3 lab_replay
tests 4 lab_console typing
if [[ $mode == soak ]]; then
  tests 5 lab_ends
  tests 6 lab_errors
fi

say "fuzz-native --cases $cases"
if target/release/fuzz-native --cases "$cases" --jobs 2 >"$work/fuzz" 2>&1; then result=ok; else result=FAILED failed=1; fi
{
  printf 'test differential_fuzzing ... %s\n---- differential_fuzzing stdout ----\n' "$result"
  printf 'figure: differential fuzzing against the processor: %s\n' "$(tail -n 1 "$work/fuzz")"
} >"$work/7"
[[ $result == ok ]] || cp "$work/fuzz" target/fuzz-native.log

say 'between the engines, in the lab'
tests/lab/fetch-kernel.sh
tests/lab/stage-tests.sh >/dev/null
LAB_TIMEOUT=7200 tests/lab/run.sh 'target/lab/bin/lab_cross --test-threads=1 --show-output' >"$work/8" 2>&1 || failed=1

table=$(cat "$work"/[1-8] | table)
if ((failed)); then
  # What went wrong, in full; of the fuzzer what it says last.
  cat "$work"/[1-8] >&2
  if [[ $result != ok ]]; then tail -n 40 "$work/fuzz" >&2; fi
fi
grep -q '^PASS' <<<"$table" || { say 'no test has run'; failed=1; }
if grep -h '^SKIPPED' "$work"/[1-8] >&2; then say 'what was skipped has not been shown'; failed=1; fi
printf '%s\n' "$table" | column -t -s $'\t'

if [[ $mode == soak ]]; then
  add_to_results 'The soft engine' 'directly on it, under load of both for the replays' 'make soak-soft' \
    "$(((SECONDS - begun + 30) / 60))" "$table"
  say 'figures added to docs/results.md'
fi
if ((failed)); then
  say "FAILED after $((SECONDS - begun)) s"
  exit 1
fi
say "all passed in $((SECONDS - begun)) s"
