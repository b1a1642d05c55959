# One verb per habit; the CI runs the same ones. What is not a verb's own answer goes to stderr, so that
# `make run ARGS="--once --json"` can be piped.
.DEFAULT_GOAL := help
.SILENT:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PYTHON := $(VENV)/.installed
PROTOC := .tools/bin/protoc
REQUIREMENTS := tests/e2e/python/requirements.txt
# nextest where the machine has it, else the runner that comes with cargo: both run the same tests.
RUN_TESTS = cargo $(if $(shell cargo nextest --version 2>/dev/null),nextest run,test --tests) --locked --no-fail-fast

.PHONY: help setup build run test lint fmt e2e chaos bench bounds proto packages

help: ## list the verbs
	sed -nE 's/^([a-z0-9]+):.*## (.*)$$/  make \1\t\2/p' Makefile | expand -t 16

setup: packages $(PROTOC) $(PYTHON) ## install what building and testing need: Debian packages, .tools, .venv

build: $(PROTOC) ## build the isocenter binary
	cargo build --locked -p isocenter

run: $(PROTOC) ## build, then run the demo; ARGS="--once --json" for one pass and one line of JSON
	exec cargo run --locked -p isocenter -- demo $(ARGS)

# The doc tests come first, so that the last line is the summary of the many.
test: lint packages build ## lint, then every test: unit, property, simulation, end to end, documentation
	cargo test --locked --workspace --doc
	$(RUN_TESTS) --workspace

lint: proto $(PROTOC) ## formatting, clippy without warnings, the protos
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fmt: $(PYTHON) ## format the Rust code and the protos
	cargo fmt --all
	$(VENV)/bin/buf format --write proto

e2e: setup build ## only the end-to-end tests: the real binary, etcd and peers that nobody here wrote
	$(RUN_TESTS) -p isocenter-tests-e2e

chaos: setup build ## every fault on real clusters, many seeds; ARGS="--seeds 20 --seconds 60" or names of plays
	tools/packages libfaketime
	cargo run --locked -p isocenter-tests-chaos -- $(ARGS)

bench: packages $(PROTOC) ## measure against etcd and the aims; one table, some ten minutes
	cargo build --release --locked -p isocenter -p isocenter-bench
	target/release/isocenter-bench all

bounds: ## each policy's ratio to a bound that nobody can beat
	CARGO_TARGET_DIR=target/bounds cargo run --release --locked --manifest-path bench/bounds/Cargo.toml

proto: $(PYTHON) ## lint the protos and check their format
	$(VENV)/bin/buf lint proto
	$(VENV)/bin/buf format --diff --exit-code proto

# etcd-client's build script calls protoc. protox is one, in Rust, so no system package is needed.
$(PROTOC):
	tools/protoc

$(PYTHON): $(REQUIREMENTS)
	tools/packages python3 python3-venv
	tools/venv $(VENV) $(REQUIREMENTS)
	touch $@

packages:
	tools/packages etcd-server etcd-client postgresql prometheus dcmtk strace openssl iproute2 python3 python3-venv
