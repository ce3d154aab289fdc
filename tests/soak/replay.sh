#!/usr/bin/env bash
# What record and replay must show: runs the whole-VM tests with larger counts and prints a table of their figures.
# Run by `make show-replay` (in short, under five minutes) and `make soak-replay` (full counts; the table also goes to
# docs/results.md). The program, the guest kernel and the image are built by `make build image`.
#
#   tests/soak/replay.sh show|soak
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/soak/table.sh
source tests/soak/table.sh

say() { echo "replay: $*" >&2; }
mode=${1-}
[[ $mode == show || $mode == soak ]] || { echo "usage: tests/soak/replay.sh show|soak" >&2; exit 2; }
begun=$SECONDS

tests/lab/fetch-kernel.sh
tests/lab/stage-tests.sh >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# in_lab NAME COMMAND...: runs test programs in a lab; what they print goes to a file NAME in the working folder.
in_lab() {
  local name=$1 command='failed=0;' line
  shift
  for line in "$@"; do command+=" target/lab/bin/$line --test-threads=1 --show-output || failed=1;"; done
  LAB_TIMEOUT=7200 LAB_FILES=target/lab/kernel/vmlinuz tests/lab/run.sh "$command exit \$failed" >"$work/$name" 2>&1
}

failed=0
if [[ $mode == show ]]; then
  export SCRIBE_TEST_REPLAYS=4 SCRIBE_TEST_SESSIONS=1 SCRIBE_TEST_PAIRS=7 SCRIBE_TEST_COST=/bin/signals
  in_lab 2 'lab_replay recordings_of_the_same_are_identical' 'lab_console typing' \
    'lab_ends a_panic a_triple_fault a_refused_instruction a_killed_recording' \
    'lab_errors damage a_newer_format a_log_that a_changed_image a_full_disk bad_images' &
  lab=$!
  in_lab 1 'lab_replay the_demo_replays' 'lab_cost --include-ignored' || failed=1
  wait "$lab" || failed=1
else
  export SCRIBE_TEST_REPLAYS=20 SCRIBE_TEST_SESSIONS=5 SCRIBE_TEST_PAIRS=9
  in_lab 2 lab_console lab_ends lab_errors &
  lab=$!
  in_lab 1 lab_replay || failed=1
  wait "$lab" || failed=1
  # Alone: CPU time in the lab is the time of this machine.
  in_lab 3 'lab_cost --include-ignored' || failed=1
fi

table=$(cat "$work"/* | table)
if (( failed )); then
  # What went wrong, in full.
  cat "$work"/*
fi
grep -q '^PASS' <<<"$table" || { say "no test has run"; cat "$work"/* >&2; failed=1; }
printf '%s\n' "$table" | column -t -s $'\t'

if [[ $mode == soak ]]; then
  add_to_results 'Record and replay' 'in the lab (tests/lab/README.md)' 'make soak-replay' \
    "$(( (SECONDS - begun + 30) / 60 ))" "$table"
  say "figures added to docs/results.md"
fi
if (( failed )); then
  say "FAILED after $((SECONDS - begun)) s"
  exit 1
fi
say "all passed in $((SECONDS - begun)) s"
