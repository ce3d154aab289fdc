#!/usr/bin/env bash
# Are the tests of counted places worth anything? Breaks the code in one way after the other, in a copy of the tree, and
# requires the tests to fail each time. Names of mutations as arguments: only these.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=target/mutate/tree
export CARGO_TARGET_DIR=$PWD/target/mutate/target
tests=(--quiet --package scribe-vmm --lib --locked)
filters=(approach overshoot pmu)
# A test that hangs has failed too.
limit=180

say() { echo "mutate: $*" >&2; }

approach=vmm/src/engine/approach.rs
again=vmm/src/session/player/again.rs
player=vmm/src/session/player.rs
selftest=vmm/src/engine/pmu/selftest.rs

# NAME, FILE, what is there, what is there instead. What is there must be there exactly once.
mutations=(
  no-steps "$approach"
  'Some((place, None)) => self.step(cpu, place)?,'
  'Some((place, None)) => self.go(cpu, Some((place, 1)))?,'

  no-skid "$approach"
  'left.checked_sub(self.skid.saturating_add(1))'
  'left.checked_sub(1)'

  overshoot-one-later "$approach"
  '&& count >= place.branches'
  '&& count > place.branches'

  reached-one-later "$approach"
  'Some(_) => Ok(self.progress() >= place),'
  'Some(_) => Ok(self.progress() > place),'

  count-not-read-again "$approach"
  'let count = cpu.count()?;'
  'let count = if went == Went::Interrupted { self.branches } else { cpu.count()? };'

  steps-believed-after-a-run "$approach"
  '(self.branches, self.steps, self.straight) = (count, None, 0);'
  '(self.branches, self.steps, self.straight) = (count, Some(0), 0);'

  counter-not-compared "$approach"
  'if counter != self.branches {'
  'if counter < self.branches {'

  kick-before-the-place "$approach"
  'if self.has_reached(place)? {'
  'if self.has_reached(place)? && self.skid == u64::MAX {'

  overflow-left-armed "$approach"
  'if std::mem::take(&mut self.armed) {'
  'if std::mem::take(&mut self.armed) && self.skid == u64::MAX {'

  branch-not-counted "$approach"
  'self.branches = self.branches.saturating_add(1);'
  'self.branches = self.branches.saturating_add(self.steps.map_or(1, |steps| steps.min(1)));'

  never-gives-up "$approach"
  'self.straight >= MOST_STEPS'
  'self.straight == u64::MAX'

  place-behind "$approach"
  'return Some(Progress { branches: self.branches.saturating_add(1), steps: 0 });'
  'return Some(Progress { branches: self.branches, steps: 0 });'

  again-from-where-it-is "$again"
  'self.machine = machine;'
  'drop(machine);'

  again-with-the-same-skid "$again"
  'counter.with_twice_the_skid()'
  'counter.clone()'

  again-shown-twice "$player"
  'let run = match shown {'
  'let run = match shown.filter(|_| self.attempts > again::ATTEMPTS) {'

  again-although-watched "$again"
  'self.attempts > 0 && !self.lent'
  'self.attempts > 0'

  late-overflows-pass "$selftest"
  'if most > counter.skid {'
  'if most == u64::MAX {'

  wrong-counts-pass "$selftest"
  'Ok(count) if count == expected => {}'
  'Ok(count) if count >= expected => {}'
)

copy() {
  rm -rf "$tree"
  mkdir -p "$tree"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [[ -f $file ]] && printf '%s\0' "$file"
  done | tar --null --files-from=- -c | tar -x -C "$tree"
}

# Replaces the text that is there once, and fails if it is not.
mutate() {
  FROM=$2 TO=$3 perl -0pi -e '
    my $count = () = /\Q$ENV{FROM}\E/g;
    die "it is there $count times: $ENV{FROM}\n" if $count != 1;
    s/\Q$ENV{FROM}\E/$ENV{TO}/;
  ' "$1"
}

build() { (cd "$tree" && cargo test "${tests[@]}" --no-run >/dev/null 2>"$OLDPWD/target/mutate/build.log"); }

run() { (cd "$tree" && timeout "$limit" cargo test "${tests[@]}" -- "${filters[@]}") >target/mutate/test.log 2>&1; }

copy
say "without a mutation"
build || { cat target/mutate/build.log >&2; say "the tests do not build"; exit 1; }
run || { tail -n 40 target/mutate/test.log >&2; say "the tests fail as they are"; exit 1; }

survived=() number=0
for ((at = 0; at < ${#mutations[@]}; at += 4)); do
  name=${mutations[at]} file=${mutations[at + 1]} from=${mutations[at + 2]} to=${mutations[at + 3]}
  if (($# > 0)) && [[ " $* " != *" $name "* ]]; then continue; fi
  number=$((number + 1))
  cp "$tree/$file" target/mutate/original
  mutate "$tree/$file" "$from" "$to" || { say "$name does not apply to $file"; exit 1; }
  build || { tail -n 20 target/mutate/build.log >&2; say "$name does not build"; exit 1; }
  if run; then
    survived+=("$name")
    say "SURVIVED $name: no test fails"
  else
    failed=$(grep -c '^test .*FAILED$\|^    [a-z_:]*$' target/mutate/test.log || true)
    say "found    $name ($failed lines of failures)"
  fi
  cp target/mutate/original "$tree/$file"
done

if ((number == 0)); then say "no such mutation: $*"; exit 1; fi
if ((${#survived[@]} > 0)); then
  say "${#survived[@]} of $number survived: ${survived[*]}"
  exit 1
fi
say "all $number mutations are found by tests"
