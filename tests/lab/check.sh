#!/usr/bin/env bash
# Checks the lab itself: /dev/kvm, status, streams, files, signals, time limit, two at once. About 30 s.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
run=$here/run.sh
work=$(mktemp -d)
trap 'rm -rf "$work" "$root/target/lab/out/lab-check"' EXIT
fail() { echo "lab: check FAILED: $*" >&2; exit 1; }

# A program with shared libraries, taken along from outside of the checkout.
cat > "$work/kvm.c" <<'END'
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>
int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
	printf("api %d, vcpu %s\n", ioctl(kvm, KVM_GET_API_VERSION, 0), ioctl(vm, KVM_CREATE_VCPU, 0) >= 0 ? "yes" : "no");
	return 0;
}
END
gcc -o "$work/kvm" "$work/kvm.c"

# shellcheck disable=SC2016 # for the shell in the lab
LAB_FILES=$work/kvm LAB_ENV=LAB_CHECK LAB_CHECK='a "b" $c' "$run" \
  'echo "$LAB_CHECK"; printf "\r\n\0\377"; pwd; '"$work/kvm"'; echo err > /dev/stderr
   mkdir -p target/lab/out/lab-check/sub; head -c 100000 /dev/zero > target/lab/out/lab-check/sub/file
   sh -c "kill -INT \$\$"; echo "int $?"; sleep 1000 & exit 42' \
  < /dev/null > "$work/out" 2> "$work/err" &
first=$!
LAB_TIMEOUT=2 "$run" 'echo partial; mkdir -p target/lab/out/lab-check; echo late > target/lab/out/lab-check/late; sleep 1000' \
  < /dev/null > "$work/out2" 2> "$work/err2" &
second=$!
code=0; wait "$first" || code=$?
(( code == 42 )) || fail "status $code instead of 42: $(cat "$work/err")"
code=0; wait "$second" || code=$?
(( code == 124 )) || fail "status $code instead of 124 at the time limit: $(cat "$work/err2")"

# shellcheck disable=SC2016 # as it must arrive
printf 'a "b" $c\n\r\n\0\377%s\napi 12, vcpu yes\nint 130\n' "$root" | cmp - "$work/out" || fail "stdout: $(cat -v "$work/out")"
[[ $(< "$work/err") == err ]] || fail "stderr: $(cat -v "$work/err")"
[[ $(stat -c %s "$root/target/lab/out/lab-check/sub/file") == 100000 ]] || fail "a file did not come back"
[[ $(< "$work/out2") == partial ]] || fail "output before the time limit: $(cat -v "$work/out2")"
[[ $(< "$root/target/lab/out/lab-check/late") == late ]] || fail "a file from before the time limit did not come back"
echo "lab: check ok" >&2
