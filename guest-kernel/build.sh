#!/usr/bin/env bash
# Builds the guest kernel: target/guest/vmlinux (ELF, symbol table kept), bzImage, System.map.
#
# Source is Debian's package linux-source-6.12, changed by patches/*.patch and configured by scribe.config over tinyconfig.
# Nothing is done when the result of the same inputs is there already. The kernel is then checked: it must not hold an
# instruction that reads something of the host (the list is below).
#
# Usage: guest-kernel/build.sh [--force]
#   JOBS=N                  parallel compilers (default: number of processors)
#   SCRIBE_LINUX_TARBALL=F  other source archive
#   SCRIBE_KEEP_TREE=1      keep the unpacked tree below target/guest-kernel
set -euo pipefail
export LC_ALL=C TZ=UTC
unset CDPATH MAKEFLAGS MFLAGS KCONFIG_CONFIG KBUILD_OUTPUT ARCH CROSS_COMPILE KCFLAGS

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
work=$root/target/guest-kernel
out=$root/target/guest
tarball=${SCRIBE_LINUX_TARBALL:-/usr/src/linux-source-6.12.tar.xz}
jobs=${JOBS:-$(nproc)}
log=$work/build.log
products=(vmlinux bzImage System.map)

# How many lines of a complete build say that a file is made: only for the percentage.
expected_objects=1500

# Instructions through which a kernel would see the host's clocks, random numbers, counters or the state of its context
# switches, and hypercalls, which some hypervisors answer by themselves.
forbidden='rdtscp?|rdrand|rdseed|rdpid|rdpmc|umwait|umonitor|tpause|monitorx?|mwaitx?|xgetbv|xsave(opt|c|s)?(64)?|vmm?call'

# Where one of them may stay: "file:symbol:mnemonic", each with its reason in front of it.
allowed=(
)

say() { printf 'guest-kernel: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

need_tools() {
	local missing=() tool
	for tool in gcc ld make flex bison bc tar xz zstd patch objdump readelf strip sha256sum flock; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	[[ -e /usr/include/libelf.h ]] || missing+=(libelf.h)
	[[ ${#missing[@]} -eq 0 ]] ||
		die "missing: ${missing[*]} (Debian: apt-get install build-essential flex bison bc xz-utils zstd patch libelf-dev)"
	[[ -r $tarball ]] || die "no kernel source at $tarball (Debian: apt-get install linux-source-6.12)"
}

# Everything that decides what comes out.
inputs_hash() {
	{
		sha256sum <"$tarball"
		sha256sum <"$here/build.sh"
		sha256sum <"$here/scribe.config"
		local p
		for p in "$here"/patches/*.patch; do
			printf '%s ' "${p##*/}"
			sha256sum <"$p"
		done
		gcc --version | head -n 1
		ld --version | head -n 1
	} | sha256sum | cut -d ' ' -f 1
}

up_to_date() {
	local p
	[[ -r $work/stamp && $(<"$work/stamp") == "$1" ]] || return 1
	for p in "${products[@]}"; do
		[[ -s $out/$p ]] || return 1
	done
}

# Runs a command into the log, with a line (or on a terminal, one that is rewritten) on how far it is.
run_with_progress() {
	local what=$1 pid built percent status=0 started=$SECONDS last=0
	shift
	"$@" >>"$log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		built=$(grep -cE '^  (CC|AS|LD|AR|VDSO|ZSTD22|HOSTCC) ' "$log" || true)
		percent=$((built * 100 / expected_objects))
		((percent <= 99)) || percent=99
		if [[ -t 2 ]]; then
			printf '\rguest-kernel: %s: %d files, about %d %%, %d s ' "$what" "$built" "$percent" $((SECONDS - started)) >&2
		elif ((SECONDS - last >= 20)); then
			last=$SECONDS
			say "$what: $built files, about $percent %, $((SECONDS - started)) s"
		fi
	done
	wait "$pid" || status=$?
	[[ ! -t 2 ]] || printf '\n' >&2
	if ((status != 0)); then
		grep -nE 'error|Error' "$log" | head -n 20 >&2 || true
		tail -n 15 "$log" >&2
		die "$what failed with status $status, see $log"
	fi
	say "$what: done in $((SECONDS - started)) s"
}

# Kconfig drops an option without a word when a dependency is missing.
check_config() {
	local line option wrong=0
	while IFS= read -r line; do
		case $line in
		'# CONFIG_'*' is not set')
			option=${line#\# }
			option=${option% is not set}
			grep -q "^$option=" .config || continue
			say "scribe.config: $option should be off, is: $(grep "^$option=" .config)"
			wrong=1
			;;
		CONFIG_*=*)
			grep -qxF -- "$line" .config && continue
			say "scribe.config: $line did not take effect, is: $(grep -E "^(# )?${line%%=*}[ =]" .config || echo absent)"
			wrong=1
			;;
		esac
	done <"$here/scribe.config"
	((wrong == 0)) || die "the configuration is not what scribe.config asks for"
}

# check_instructions NAME FILE [objdump options]: every forbidden instruction must be in the allow list.
check_instructions() {
	local name=$1 file=$2 hit entry found bad=0
	shift 2
	while IFS= read -r hit; do
		found=0
		for entry in ${allowed[@]+"${allowed[@]}"}; do
			[[ $hit != "$entry" ]] || found=1
		done
		((found)) && continue
		say "forbidden instruction: $hit"
		bad=1
	done < <(objdump -d --no-show-raw-insn "$@" "$file" |
		awk -F '\t' -v name="$name" -v bad="^(${forbidden})\$" '
			/^[0-9a-f]+ <.*>:$/ { symbol = $1; sub(/^[^<]*</, "", symbol); sub(/>:$/, "", symbol); next }
			/^Disassembly of section / { symbol = $0; sub(/^Disassembly of section /, "", symbol); sub(/:$/, "", symbol); next }
			NF >= 2 { n = split($2, word, " "); for (i = 1; i <= n && i <= 3; i++) if (word[i] ~ bad) print name ":" symbol ":" word[i] }
		' | sort -u)
	((bad == 0)) || die "$name reads the host; change the patches, or add a reasoned entry to the allow list"
}

check_note() {
	readelf -nW "$1" 2>/dev/null | awk '$1 == "Scribe" && $2 == "0x00000004" { found = 1 } END { exit !found }' ||
		die "$1 has no ELF note Scribe"
}

build() {
	local stamp=$1 tree p
	rm -rf "$work/tree" "$work/stamp"
	mkdir -p "$work/tree" "$out"
	: >"$log"

	say "unpacking ${tarball##*/} (about 1.5 GB)"
	tar -xf "$tarball" -C "$work/tree" --strip-components=1
	tree=$work/tree
	for p in "$here"/patches/*.patch; do
		say "patch ${p##*/}"
		patch -d "$tree" -p1 --no-backup-if-mismatch --fuzz=0 -s <"$p" >&2 || die "${p##*/} does not apply"
	done

	export KBUILD_BUILD_TIMESTAMP='2026-01-01 00:00:00 UTC' KBUILD_BUILD_USER=scribe KBUILD_BUILD_HOST=scribe KBUILD_BUILD_VERSION=1
	# Set, though empty: else a tree that is a git repository gets a "+" in its version.
	export LOCALVERSION=
	cd "$tree"
	{
		make tinyconfig
		./scripts/kconfig/merge_config.sh -m .config "$here/scribe.config"
		make olddefconfig
	} >>"$log" 2>&1 || { tail -n 15 "$log" >&2; die "configuration failed, see $log"; }
	check_config

	run_with_progress compile make -j"$jobs" vmlinux bzImage

	say "checking for instructions that read the host"
	check_instructions vmlinux vmlinux
	check_instructions vdso arch/x86/entry/vdso/vdso64.so.dbg
	check_instructions decompressor arch/x86/boot/compressed/vmlinux
	check_instructions setup arch/x86/boot/setup.elf -m i8086
	check_note vmlinux

	strip --strip-debug -o "$out/.vmlinux.new" vmlinux
	check_note "$out/.vmlinux.new"
	cp arch/x86/boot/bzImage "$out/.bzImage.new"
	cp System.map "$out/.System.map.new"
	cp .config "$work/config"
	for p in "${products[@]}"; do
		mv "$out/.$p.new" "$out/$p"
	done
	printf '%s\n' "$stamp" >"$work/stamp"

	cd "$root"
	if [[ -z ${SCRIBE_KEEP_TREE:-} ]]; then
		rm -rf "$tree"
	fi
}

main() {
	local stamp force=0
	case ${1:-} in
	'') ;;
	--force) force=1 ;;
	*) sed -n '2,/^set /{s/^# \{0,1\}//p}' "$here/build.sh" >&2; exit 2 ;;
	esac
	need_tools
	mkdir -p "$work"
	# Two builds at once would share the tree: the second waits and then finds the work done.
	exec 9>"$work/lock"
	flock -n 9 || { say "another build is running, waiting"; flock 9; }
	stamp=$(inputs_hash)
	if ((!force)) && up_to_date "$stamp"; then
		say "up to date: $out/vmlinux"
		return
	fi
	build "$stamp"
	say "built $out/vmlinux ($(stat -c %s "$out/vmlinux") bytes), bzImage ($(stat -c %s "$out/bzImage") bytes)"
}

main "$@"
