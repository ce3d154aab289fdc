#!/usr/bin/env bash
# What recordings must show: places in them, snapshots, going live, killed recorders, flipped bits. Runs the tests of
# tests/tests/recordings_*.rs with larger counts and prints a table of their figures.
# Run by `make show-recordings` (in short, under five minutes) and `make soak-recordings` (full counts; the table also goes
# to docs/results.md). The program, the guest kernel and the image are built by `make build image`.
#
#   tests/soak/recordings.sh show|soak
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/soak/table.sh
source tests/soak/table.sh

say() { echo "recordings: $*" >&2; }
mode=${1-}
[[ $mode == show || $mode == soak ]] || { echo "usage: tests/soak/recordings.sh show|soak" >&2; exit 2; }
begun=$SECONDS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ $mode == show ]]; then
  export SCRIBE_TEST_PLACES=32 SCRIBE_TEST_KILLS=60 SCRIBE_TEST_FLIPS=1000
else
  export SCRIBE_TEST_PLACES=200 SCRIBE_TEST_KILLS=500 SCRIBE_TEST_FLIPS=10000 SCRIBE_TEST_STEP=1
  export SCRIBE_TEST_LEVELS=3 SCRIBE_TEST_LOAD=2 SCRIBE_TEST_REPLAYS=4
fi

# Optimised: most of these tests play whole machines in their own process.
names=(asleep damaged killed live places size)
arguments=()
for name in "${names[@]}"; do arguments+=(--test "recordings_$name"); done
built=$(cargo test --release --no-run --quiet --locked --package scribe-tests "${arguments[@]}" \
  --message-format=json-render-diagnostics)
program() { sed -nE 's/.*"executable":"([^"]*\/recordings_'"$1"'-[0-9a-f]+)".*/\1/p' <<<"$built"; }

failed=0
# tests NUMBER NAME [OPTION...]: the tests of recordings_NAME; what they print goes to a file NUMBER.
tests() {
  local number=$1 name=$2 executable
  shift 2
  executable=$(program "$name")
  say "recordings_$name $*"
  (cd tests && "$executable" --show-output --format=pretty "$@") >"$work/$number" 2>&1 || failed=1
}

# First and alone: it is a matter of speed.
tests 1 size --include-ignored --test-threads=1
if [[ $mode == soak ]]; then
  say 'places on KVM, in the lab'
  tests/lab/fetch-kernel.sh
  mkdir -p target/lab/bin
  cp --remove-destination "$(program places)" target/lab/bin/recordings_places
  LAB_TIMEOUT=2400 tests/lab/run.sh 'target/lab/bin/recordings_places --show-output --format=pretty exits_are' \
    >"$work/7" 2>&1 &
  lab=$!
fi
tests 2 places --test-threads=1 --skip exits_are
tests 3 live --test-threads=2
tests 4 killed --test-threads=1
tests 5 damaged --test-threads=2
tests 6 asleep --test-threads=2
if [[ $mode == soak ]]; then wait "$lab" || failed=1; fi

table=$(cat "$work"/* | table)
# What went wrong, in full.
if ((failed)); then cat "$work"/* >&2; fi
grep -q '^PASS' <<<"$table" || { say 'no test has run'; failed=1; }
if grep -h 'SKIPPED (' "$work"/* >&2; then say 'what was skipped has not been shown'; failed=1; fi
printf '%s\n' "$table" | column -t -s $'\t'

if [[ $mode == soak ]]; then
  add_to_results 'Recordings' 'directly on the soft engine; KVM in the lab' 'make soak-recordings' \
    "$(((SECONDS - begun + 30) / 60))" "$table"
  say 'figures added to docs/results.md'
fi
if ((failed)); then
  say "FAILED after $((SECONDS - begun)) s"
  exit 1
fi
say "all passed in $((SECONDS - begun)) s"
