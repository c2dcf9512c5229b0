# Needs make and Python 3.11 or newer with its venv module; everything else goes into .venv.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
MINUTES ?= 20
WORKERS ?= 3
FUZZ_MINUTES ?= 2
TARGETS ?=
BIN := $(VENV)/bin
PROTOCOL_MODULES = $(filter-out __init__,$(basename $(notdir $(wildcard brokerless/protocol/*.py))))

.DELETE_ON_ERROR:
.PHONY: help demo test test-protocol test-shell soak fuzz mutants check format bench scale clean

help:
	@echo "make demo    two peers in two processes: every promise shown once"
	@echo "make test    all tests, and the coverage of the protocol"
	@echo "make soak    simulated worlds for MINUTES=20, then about as long all tests that can do more of the same"
	@echo "make fuzz    look for input that breaks a reader: two minutes each (FUZZ_MINUTES=2 TARGETS=node)"
	@echo "make mutants faults planted one at a time: do the tests notice?"
	@echo "make check   lint, format, types, layers"
	@echo "make format  let ruff put the code in order"
	@echo "make bench   rates and round trips beside plain pyzmq"
	@echo "make scale   fifty processes: how soon they meet, what they cost, how soon one is missed"
	@echo "make clean   remove what the others made"

demo: $(VENV)/.installed
	$(BIN)/dittobus demo

test: test-protocol test-shell

# Each module of the pure core is covered completely, branches too, by its own test file. Only here is coverage
# measured: tracing would slow down the tests that talk through real sockets, and luck would count in them.
test-protocol: $(VENV)/.installed-test
	$(BIN)/coverage run -m pytest tests/protocol
	@status=0; for module in $(PROTOCOL_MODULES); do \
		report=$$($(BIN)/coverage report --include="brokerless/protocol/$$module.py" \
			--contexts="^$$,[.^]test_$$module[.]" --fail-under=100 --show-missing 2>&1) || \
			{ echo "$$report"; echo "tests/protocol/test_$$module.py alone must cover all of it."; status=1; }; \
	done; exit $$status

# Most of these wait for sockets and processes, so more of them run at once than there are cores. A file stays in
# one piece, for its tests may share what is dear.
test-shell: $(VENV)/.installed-test
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=loadfile --ignore=tests/protocol

# What is limited in time for the sake of every change goes on for longer here: MINUTES for the worlds, and about as
# long for the rest, which takes an hour for all that is meant for a long run.
soak: $(VENV)/.installed-test
	@status=0; $(BIN)/python -m tests.simulate --minutes $(MINUTES) || status=1; \
	DITTOBUS_SOAK=$(MINUTES) $(BIN)/pytest -m soak -v --numprocesses=$(WORKERS) --dist=worksteal --durations=50 || \
		status=1; exit $$status

# Exits with 1 when something was found; that is kept in .fuzz/found, and how to see it again is said.
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python -m tests.fuzz --minutes $(FUZZ_MINUTES) $(TARGETS)

mutants: $(VENV)/.installed-test
	$(BIN)/python -m tests.mutants

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/stream_rate.py
	$(BIN)/python benchmarks/latency.py

# Fails when a bar is missed. The machine must have nothing else to do.
scale: $(VENV)/.installed
	$(BIN)/python benchmarks/scale.py

clean:
	rm -rf $(VENV) .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .fuzz/corpus dist build

$(BIN)/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "DittoBus needs Python 3.11 or newer; '$(or $(PYTHON),python3)' is not. Name one: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
