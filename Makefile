# Each target first sets up what it lacks; a second run sets up and builds nothing.

CSV ?= examples/data/weather.csv

export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
export LANG ?= C.UTF-8
export ELIXIR_ERL_OPTIONS ?= +fnu

PYTHON := .venv/bin/python
EXAMPLES := examples/streaming

.PHONY: help demo test check setup setup-dev
.NOTPARALLEL:

help:
	@echo "make demo [CSV=file.csv]  one call and one stream, live"
	@echo "make test                 every test: Elixir, Rust, Python"
	@echo "make check                formatting, warnings, lints, types"

demo: export MIX_ENV = dev
demo: setup
	@mix run examples/demo.exs "$(CSV)"

test: export MIX_ENV = test
test: setup-dev
	mix test
	cargo test --release --locked
	$(PYTHON) -m pytest

check: export MIX_ENV = test
check: setup-dev
	mix format --check-formatted
	mix compile --all-warnings --warnings-as-errors
	cargo fmt --all --check
	cargo clippy --release --locked --all-targets -- -D warnings
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

setup:
	@bin/setup
	@mix snakepit.setup

setup-dev:
	@bin/setup --dev
	@mix snakepit.setup --dev
	@mix snakepit.setup --venv $(EXAMPLES)/.venv --requirements $(EXAMPLES)/requirements.txt
