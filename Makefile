# Two commands on a fresh Debian 12 (root, Rust toolchain): make demo, make test. All targets: docs/interface.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
# Each step wants all processors, and setup comes before everything else.
.NOTPARALLEL:

PROGRAM := target/release/scribe-vmm
export CMD

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

.PHONY: setup
setup: ## install the Debian packages that are missing
	scripts/setup.sh

.PHONY: build
build: ## target/release/scribe-vmm
	cargo build --release --locked --package scribe-vmm

.PHONY: image
image: setup ## target/guest/vmlinux and target/guest/demo.img (the kernel takes about 4 minutes, once)
	guest-kernel/build.sh
	images/build-demo.sh

.PHONY: image-check
image-check: image ## target/guest/check.img: programs as Debian packages them, which check the processor
	images/build-check.sh

.PHONY: image-initrd
image-initrd: setup ## target/guest/debian/: Debian's kernel as packaged, and an initramfs for it
	images/build-debian-initrd.sh

.PHONY: image-debian image-workloads
image-debian: setup ## target/guest/debian.img: minimal Debian 12, kernel and initrd as packaged (needs root)
	images/build-debian.sh
image-workloads: setup ## target/guest/workloads.img: the same with redis, SQLite, Python, gcc, iperf3, curl (needs root)
	images/build-workloads.sh

.PHONY: demo
demo: image build ## record a guest, replay it, print a table
	scripts/demo.sh

.PHONY: lab
lab: image build ## run CMD in the lab: make lab CMD='target/release/scribe-vmm doctor'
	tests/lab/run.sh "$$CMD"

.PHONY: test
test: image image-check image-initrd build ## every test, with its own set-up
	scripts/test.sh

.PHONY: check
check: ## fmt, clippy, docs, deny, duplicate crates, shellcheck
	scripts/check.sh

.PHONY: mutate
mutate: ## break the code of counted places, one way at a time: tests must fail (about 15 minutes)
	scripts/mutate.sh

.PHONY: show-replay soak-replay
show-replay: image build ## what record and replay must show, in short
	tests/soak/replay.sh show
soak-replay: image build ## the same with full counts; figures go to docs/results.md
	tests/soak/replay.sh soak

.PHONY: show-soft soak-soft
show-soft: image image-check image-initrd build ## what the soft engine must show, in short
	tests/soak/soft.sh show
soak-soft: image image-check image-initrd build ## the same with full counts; figures go to docs/results.md
	tests/soak/soft.sh soak

.PHONY: show-recordings soak-recordings
show-recordings: image build ## what recordings must show, in short
	tests/soak/recordings.sh show
soak-recordings: image build ## the same with full counts; figures go to docs/results.md
	tests/soak/recordings.sh soak

.PHONY: show-sync soak-sync
show-sync: image image-initrd build ## what sync points anywhere must show, in short
	tests/soak/sync.sh show
soak-sync: image image-initrd build ## the same with full counts; figures go to docs/results.md
	tests/soak/sync.sh soak

.PHONY: clean
clean: ## remove everything built
	cargo clean
