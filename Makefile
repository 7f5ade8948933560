# Each target first installs what it lacks; a second run installs and builds nothing.

CSV ?= examples/data/weather.csv
SUITES ?=

export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
export LANG ?= C.UTF-8
# Schedulers that wait for work do not spin: the tests' workers and other BEAMs need the cores.
export ELIXIR_ERL_OPTIONS ?= +fnu +sbwt none +sbwtdcpu none +sbwtdio none

PYTHON := .venv/bin/python
EXAMPLES := examples

.PHONY: help demo test check setup setup-dev
.NOTPARALLEL:

help:
	@echo "make demo [CSV=file.csv]  one call and one stream, live"
	@echo "make test                 every test: Elixir, Rust, Python, and the fault suite in short"
	@echo "make test SUITES=trixie   also the Elixir tests in a chroot with this suite of Debian"
	@echo "make check                formatting, warnings, lints, types"

demo: export MIX_ENV = dev
demo: setup
	@mix run examples/demo.exs "$(CSV)"

test: export MIX_ENV = test
test: setup-dev
	@bin/each Elixir "mix test" Rust "cargo test --release --locked --no-fail-fast" Python "$(PYTHON) -m pytest" \
	  Faults "mix snakepit.faults" $(foreach suite,$(SUITES),$(suite) "bin/try-suite $(suite)")

check: export MIX_ENV = test
check: setup-dev
	@bin/each \
	  "mix format" "mix format --check-formatted" \
	  "mix compile" "mix compile --all-warnings --warnings-as-errors" \
	  "mix xref" "mix xref graph --format cycles --fail-above 0" \
	  "cargo fmt" "cargo fmt --all --check" \
	  clippy "cargo clippy --release --locked --all-targets -- -D warnings" \
	  circles "$(PYTHON) bin/circles" \
	  ruff "$(PYTHON) -m ruff check" \
	  "ruff format" "$(PYTHON) -m ruff format --check" \
	  mypy "$(PYTHON) -m mypy"

setup:
	@bin/setup
	@mix snakepit.setup

setup-dev:
	@bin/setup --dev
	@mix snakepit.setup --dev
	@mix snakepit.setup --venv $(EXAMPLES)/.venv --requirements $(EXAMPLES)/requirements.txt
