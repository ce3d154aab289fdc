#!/usr/bin/env bash
# Runs the demo guest, records it and replays it, on this host's KVM where `doctor` finds it fit and else on the soft
# engine, and prints a table. Run by `make demo`. In the lab, on its KVM: make lab CMD='scripts/demo.sh here'.
set -euo pipefail
cd "$(dirname "$0")/.."

program=target/release/scribe-vmm
image=target/guest/demo.img
# `here` is what it does anyway.
[[ ${1-here} == here ]] || { echo "usage: scripts/demo.sh [here]" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SCRIBE_VMM_HOME=$work/home
guest=(--image "$image" --rtc 2026-01-01 --seed 5c --pace max)

declare -A took
# seconds NAME COMMAND...: runs the command, its wall time in seconds goes into took[NAME].
seconds() {
  local name=$1 begun=${EPOCHREALTIME/./}
  shift
  "$@"
  local micros=$((${EPOCHREALTIME/./} - begun))
  took[$name]=$(printf '%d.%02d s' $((micros / 1000000)) $((micros / 10000 % 100)))
}

echo "demo: run" >&2
seconds run "$program" run "${guest[@]}" -- /bin/demo </dev/null >"$work/run.out"
echo "demo: record" >&2
seconds record "$program" record "${guest[@]}" -o "$work/recording" -- /bin/demo </dev/null >"$work/record.out"
echo "demo: replay" >&2
seconds replay "$program" replay "$work/recording" >"$work/replay.out" 2>"$work/replay.err"
cat "$work/replay.out"
cat "$work/replay.err" >&2
cmp "$work/record.out" "$work/replay.out"

end=$("$program" log "$work/recording" | tail -n 1)
field() { sed -nE "s/.* $1 ([0-9a-f]+).*/\1/p" <<<"$end"; }
bytes=$(($(stat -c %s "$work/recording/header") + $(stat -c %s "$work/recording/events")))
digests=$(sed -nE 's/.* ([0-9]+) digests equal.*/\1/p' "$work/replay.err")

row() { printf '%-32s%s\n' "$1" "$2"; }
echo
row engine "$("$program" info "$work/recording" | sed -nE 's/^engine +//p')"
row run "${took[run]}"
row record "${took[record]}"
row replay "${took[replay]}"
row exits "$(sed -nE 's/.*; ([0-9]+) exits.*/\1/p' <<<"$end")"
row inputs "$(sed -nE 's/.* ([0-9]+) inputs.*/\1/p' <<<"$end")"
row 'bytes of log' "$bytes"
row 'digest of exits and registers' "$(field registers)"
row 'digest of the CPU' "$(field cpu)"
row 'digest of RAM' "$(field ram)"
row 'digest of the devices' "$(field devices)"
row 'compared in replay' "$digests digests, all equal; console output identical"
