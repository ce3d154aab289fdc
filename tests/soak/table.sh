#!/usr/bin/env bash
# What the soaks share: from the output of test programs to a table. Sourced by them.

# table: of the tests on standard input, one line for each figure and for each test without one: result, name, figure,
# separated by tabs. What was skipped or ignored is left out.
table() {
  awk '
    /^test .* \.\.\. ignored/ { next }
    # The message may stand behind "test NAME ... ", on the same line.
    /SKIPPED \(/ { skipped[$NF] = 1; next }
    # What a test says on stderr may stand between that and its result, which then has a line of its own.
    /^test .* \.\.\. / { order[++tests] = name = $2; result[name] = $NF == "ok" ? "PASS" : "FAIL" }
    /^ok$/ && name { result[name] = "PASS" }
    /^---- .* stdout ----$/ { current = $2 }
    sub(/^figure: /, "") { split($0, part, ": "); figures[current] = figures[current] "\n" part[1] "\t" substr($0, length(part[1]) + 3) }
    END {
      for (i = 1; i <= tests; i++) {
        name = order[i]
        if (name in skipped) continue
        count = split(figures[name], lines, "\n")
        if (count < 2) { words = name; gsub(/_/, " ", words); print result[name] "\t" words "\t" }
        for (j = 2; j <= count; j++) print result[name] "\t" lines[j]
      }
    }'
}

# add_to_results TITLE WHERE MAKE MINUTES TABLE: a section of docs/results.md.
add_to_results() {
  local commit result name figure
  commit=$(git rev-parse --short=12 HEAD)
  [[ -z $(git status --porcelain) ]] || commit+=' with changes'
  [[ -f docs/results.md ]] || printf '# Results\n\nFigures of the soaks, each as it was measured; newest last.\n' >docs/results.md
  # shellcheck disable=SC2016 # backquotes of Markdown
  {
    printf '\n## %s, %s\n\n' "$1" "$(date -u +%F)"
    printf 'Host: %s, %s processors; %s. %s, commit %s. `%s`, %d min.\n\n' \
      "$(sed -nE 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$2" \
      "$(target/release/scribe-vmm --version)" "$commit" "$3" "$4"
    printf '| | what | figure |\n| --- | --- | --- |\n'
    while IFS=$'\t' read -r result name figure; do
      printf '| %s | %s | %s |\n' "$result" "$name" "$figure"
    done <<<"$5"
  } >>docs/results.md
}
