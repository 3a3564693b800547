# On a fresh machine `make demo` and `make test` are all there is to type: each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
export PATH := $(PATH):/usr/sbin:/sbin

# Programs that the tests and the demo use, and the Debian packages that bring them and Python's own missing parts.
TOOLS = gcc genisoimage ip mcopy mkfs.vfat strace unshare xorriso
PACKAGES = gcc genisoimage iproute2 libc6-dev mtools dosfstools python3-dev python3-venv strace util-linux xorriso
HAS_PYTHON_PARTS = import ensurepip, os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")

.PHONY: help setup demo test check hold vm bench clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with the agent (editable), its libraries and the tools of its tests

# pip runs in the source tree, so the C part lands beside its source, where the boot's isolated start finds it.
$(READY): pyproject.toml contextagent/host/_guestos.c
	@missing=$$(for tool in $(TOOLS); do command -v $$tool >/dev/null || echo $$tool; done); \
	$(PYTHON) -c '$(HAS_PYTHON_PARTS)' 2>/dev/null || missing="$$missing python3-dev python3-venv"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	echo "setup: installing Debian packages, as there is no" $$missing; \
	if [ "$$(id -u)" != 0 ]; then echo "setup: cannot install: not root; ask for: apt-get install $(PACKAGES)" >&2; exit 1; fi; \
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(PACKAGES)
	@echo "setup: making .venv"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv
	@echo "setup: installing contextagent, its libraries and the tools of its tests"
	@$(BIN)/pip install -qq --editable '.[dev]'
	@touch $@

test: $(READY) ## unit tests, and black-box tests of the real program on real media
	$(BIN)/pytest

check: $(READY) ## format, lint, types, import contracts, and 100 % branch coverage where it is promised
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/coverage run -m pytest -q tests/unit
	$(BIN)/coverage report

clean: ## remove everything that was made here
	rm -rf .venv .cache .coverage* .hypothesis .*_cache build *.egg-info contextagent/host/_guestos*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
