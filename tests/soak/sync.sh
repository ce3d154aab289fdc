#!/usr/bin/env bash
# What sync points anywhere must show: guests that spin, inputs and interrupts at every place, captured sync points and
# single-stepping in the lab, chaos, the counter's self-test, what recording costs. Prints a table of their figures.
# Run by `make show-sync` (in short, under five minutes) and `make soak-sync` (full counts; the table also goes to
# docs/results.md). The program, the guest kernel and the images are built by `make image image-initrd build`.
#
#   tests/soak/sync.sh show|soak
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/soak/table.sh
source tests/soak/table.sh

begun=$SECONDS
# With the time so far: the short form has a limit.
say() { echo "sync: $((SECONDS - begun)) s: $*" >&2; }
mode=${1-}
[[ $mode == show || $mode == soak ]] || { echo "usage: tests/soak/sync.sh show|soak" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ $mode == show ]]; then
  export SCRIBE_TEST_SYNC_REPLAYS=2 SCRIBE_TEST_QUESTIONS=25
  export SCRIBE_TEST_INJECTIONS=1000 SCRIBE_TEST_INPUTS=500 SCRIBE_TEST_LINUX_INPUTS=20
  export SCRIBE_TEST_CAPTURE_REPLAYS=1 SCRIBE_TEST_PLACES=8
  export SCRIBE_TEST_PAIRS=7 SCRIBE_TEST_TICKS=50
else
  export SCRIBE_TEST_SYNC_REPLAYS=100 SCRIBE_TEST_QUESTIONS=100
  export SCRIBE_TEST_INJECTIONS=10000 SCRIBE_TEST_INPUTS=10000 SCRIBE_TEST_LINUX_INPUTS=200 SCRIBE_TEST_LINUX_REPLAYS=4
  export SCRIBE_TEST_CAPTURE_REPLAYS=20 SCRIBE_TEST_PLACES=200 SCRIBE_TEST_STEPPED_ONE_OF=1
  export SCRIBE_TEST_PAIRS=15 SCRIBE_TEST_TICKS=250
fi

# Optimised: many of these tests play machines in their own process.
names=(sync_spinning sync_injections sync_edges sync_cost chaos)
arguments=()
for name in "${names[@]}"; do arguments+=(--test "$name"); done
built=$(cargo test --release --no-run --quiet --locked --package scribe-tests "${arguments[@]}" \
  --message-format=json-render-diagnostics)
tests/lab/fetch-kernel.sh
tests/lab/stage-tests.sh >/dev/null
program() { sed -nE 's/.*"executable":"([^"]*\/'"$1"'-[0-9a-f]+)".*/\1/p' <<<"$built"; }

failed=0
# tests NUMBER NAME [OPTION...]: a test program; what it prints goes to a file NUMBER, and the table has them in order.
tests() {
  local number=$1 name=$2 executable
  shift 2
  executable=$(program "$name")
  say "$name $*"
  (cd tests && "$executable" --show-output --format=pretty "$@") >"$work/$number" 2>&1 || failed=1
}
# in_lab NUMBER COMMAND: a test program of the lab, likewise.
in_lab() {
  say "in the lab: $2"
  LAB_TIMEOUT=7200 tests/lab/run.sh "target/lab/bin/$2 --test-threads=1 --show-output" >"$work/$1" 2>&1 || failed=1
}

# In short without what boots Debian's kernel many times, the whole of ring 0 in steps, and chaos beside its race.
short=() filter='' race=()
if [[ $mode == show ]]; then
  short=(--skip of_debians_kernel --skip debians_kernel_that_ticks) filter=places_between race=(a_race)
fi
# First and alone: they are matters of speed.
tests 1 sync_spinning --include-ignored --test-threads=1 "${short[@]}"
tests 7 sync_cost --include-ignored --test-threads=1 "${short[@]}"
(in_lab 4 lab_capture && ((failed == 0))) &
capture=$!
tests 2 sync_injections --test-threads=1
tests 3 sync_edges --test-threads=1
wait "$capture" || failed=1
(in_lab 5 "lab_steps $filter" && ((failed == 0))) &
steps=$!
tests 6 chaos --test-threads=1 "${race[@]}"
wait "$steps" || failed=1

# What this host's counter says; on one without a counter that is all that can be shown (docs/pmu.md).
say 'doctor --pmu'
if target/release/scribe-vmm doctor --pmu >"$work/pmu" 2>&1; then said='usable'; else said=$(sed -nE 's/^fail +(.*)/\1/p' "$work/pmu" | head -n 1); fi
{
  printf 'test the_counter_of_this_host ... ok\n---- the_counter_of_this_host stdout ----\n'
  printf 'figure: the counter of this host (not asserted): %s\n' "$said"
} >"$work/8"

table=$(cat "$work"/[1-8] | table)
# What went wrong, in full.
if ((failed)); then cat "$work"/[1-8] >&2; fi
grep -q '^PASS' <<<"$table" || { say 'no test has run'; failed=1; }
if grep -h 'SKIPPED (' "$work"/[1-8] >&2; then say 'what was skipped has not been shown'; failed=1; fi
printf '%s\n' "$table" | column -t -s $'\t'

if [[ $mode == soak ]]; then
  add_to_results 'Sync points anywhere' 'directly on the soft engine; KVM in the lab' 'make soak-sync' \
    "$(((SECONDS - begun + 30) / 60))" "$table"
  say 'figures added to docs/results.md'
fi
if ((failed)); then
  say "FAILED after $((SECONDS - begun)) s"
  exit 1
fi
say "all passed in $((SECONDS - begun)) s"
