#!/usr/bin/env bash
# Builds the whole-VM tests and runs them in the lab: two labs side by side, one for each half of the test programs.
#
#   tests/lab/test.sh                all of tests/tests/lab_*.rs
#   tests/lab/test.sh TEST...        those with TEST in their names, in one lab
# The program, the guest kernel and the image are built by `make build image`.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/lab/fetch-kernel.sh
programs=$(tests/lab/stage-tests.sh)
filter=("$@")

# in_lab PROGRAM...: runs them one after the other, all of them even if one fails.
in_lab() {
  local command='failed=0;' program
  for program in "$@"; do
    command+=" target/lab/bin/$program --test-threads=1 --show-output ${filter[*]@Q} || failed=1;"
  done
  # Debian's kernel, for the test that it is refused.
  LAB_TIMEOUT=${LAB_TIMEOUT:-2400} LAB_FILES="target/lab/kernel/vmlinuz ${LAB_FILES-}" tests/lab/run.sh "$command exit \$failed"
}

if (( $# > 0 )); then
  # shellcheck disable=SC2086 # names without blanks
  in_lab $programs
  exit
fi

# The halves take about as long as each other; what is new goes into the second.
first=(lab_replay lab_cost lab_console lab_ring0)
mapfile -t second < <(grep -vxF "$(printf '%s\n' "${first[@]}")" <<<"$programs")
beside=$(mktemp)
trap 'rm -f "$beside"' EXIT
in_lab "${second[@]}" >"$beside" 2>&1 &
lab=$!
status=0
in_lab "${first[@]}" || status=1
wait "$lab" || status=1
cat "$beside"
exit "$status"
