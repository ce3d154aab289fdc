#!/usr/bin/env bash
# What record and replay must show: runs the whole-VM tests with larger counts and prints a table of their figures.
# Run by `make show-replay` (in short, under five minutes) and `make soak-replay` (full counts; the table also goes to
# docs/results.md). The program, the guest kernel and the image are built by `make build image`.
#
#   tests/soak/replay.sh show|soak
set -euo pipefail
cd "$(dirname "$0")/../.."

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

# One line for each figure, and for each test without one: result, name, figure, separated by tabs.
table=$(cat "$work"/* | awk '
  /^test .* \.\.\. / { order[++tests] = $2; result[$2] = $NF == "ok" ? "PASS" : "FAIL" }
  /^---- .* stdout ----$/ { current = $2 }
  sub(/^figure: /, "") { split($0, part, ": "); figures[current] = figures[current] "\n" part[1] "\t" substr($0, length(part[1]) + 3) }
  END {
    for (i = 1; i <= tests; i++) {
      name = order[i]
      count = split(figures[name], lines, "\n")
      if (count < 2) { words = name; gsub(/_/, " ", words); print result[name] "\t" words "\t" }
      for (j = 2; j <= count; j++) print result[name] "\t" lines[j]
    }
  }')
if (( failed )); then
  # What went wrong, in full.
  cat "$work"/*
fi
grep -q '^PASS' <<<"$table" || { say "no test has run"; cat "$work"/* >&2; failed=1; }
printf '%s\n' "$table" | column -t -s $'\t'

if [[ $mode == soak ]]; then
  commit=$(git rev-parse --short=12 HEAD)
  [[ -z $(git status --porcelain) ]] || commit+=' with changes'
  [[ -f docs/results.md ]] || printf '# Results\n\nFigures of the soaks, each as it was measured; newest last.\n' >docs/results.md
  # shellcheck disable=SC2016 # backquotes of Markdown
  {
    printf '\n## Record and replay, %s\n\n' "$(date -u +%F)"
    printf 'Host: %s, %s processors; in the lab (tests/lab/README.md). %s, commit %s. `make soak-replay`, %d min.\n\n' \
      "$(sed -nE 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
      "$(target/release/scribe-vmm --version)" "$commit" "$(( (SECONDS - begun + 30) / 60 ))"
    printf '| | what | figure |\n| --- | --- | --- |\n'
    while IFS=$'\t' read -r result name figure; do
      printf '| %s | %s | %s |\n' "$result" "$name" "$figure"
    done <<<"$table"
  } >>docs/results.md
  say "figures added to docs/results.md"
fi
if (( failed )); then
  say "FAILED after $((SECONDS - begun)) s"
  exit 1
fi
say "all passed in $((SECONDS - begun)) s"
