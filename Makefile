# On a fresh machine `make demo` and `make test` are all there is to type: each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
export PATH := $(PATH):/usr/sbin:/sbin

HAS_PYTHON_PARTS = import ensurepip, os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")

# $(call need,PROGRAMS,PACKAGES): Debian packages are installed only where a program is missing, and only by root.
define need
@missing=$$(for tool in $(1); do command -v $$tool >/dev/null || echo $$tool; done); \
$(PYTHON) -c '$(HAS_PYTHON_PARTS)' 2>/dev/null || missing="$$missing python3-dev"; \
[ -n "$$missing" ] || exit 0; \
echo "make: installing Debian packages, because these are missing:" $$missing; \
[ "$$(id -u)" = 0 ] || { echo "make: cannot install: not root; ask for: apt-get install $(2)" >&2; exit 1; }; \
apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(2)
endef

.PHONY: help setup demo test check slow hold vm rpm bench clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with the agent (editable), its libraries and the tools of its tests

# pip runs in the source tree, so the C part lands beside its source, where the boot's isolated start finds it.
$(READY): pyproject.toml contextagent/host/_guestos.c
	$(call need,curl gcc genisoimage groff ip mcopy mkfs.vfat ssh-keygen strace unshare xorriso,\
		curl gcc genisoimage groff-base iproute2 libc6-dev mtools dosfstools openssh-client python3-dev python3-venv strace \
		util-linux xorriso)
	@echo "setup: making .venv"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv
	@echo "setup: installing contextagent, its libraries and the tools of its tests"
	@$(BIN)/pip install -qq --editable '.[dev]'
	@$(BIN)/python -m compileall -q contextagent # a boot should not find itself compiling, where it may not keep the result
	@touch $@

demo: $(READY) ## whole boots, from a real disk, from a metadata service and with a pilot, below a throw-away folder
	@examples/demo.sh $(BIN)/contextagent

test: $(READY) ## unit tests, and black-box tests of the real program on real media
	$(BIN)/pytest

check: $(READY) ## format, lint, types, import contracts, and 100 % branch coverage where it is promised
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/coverage run -m pytest -q tests/unit
	$(BIN)/coverage report

slow: $(READY) ## tests with whole programs of others, which take longer to get than to run
	$(call need,curl dhclient dhcpcd dnsmasq fuseiso logger losetup mmdebstrap mpack mutt nft openssl s-nail setpriv \
		write-mime-multipart,bsdutils cloud-image-utils curl dhcpcd-base dnsmasq-base fuseiso isc-dhcp-client mmdebstrap \
		mount mpack mutt nftables openssl s-nail util-linux)
	$(BIN)/pytest tests/slow

hold: $(READY) ## kill, starve and fuzz boots at seeded places, as many as a submission asks for
	$(call need,logger openssl setpriv,bsdutils openssl util-linux)
	$(BIN)/pytest tests/hold

# What the packages are built with; the guests get the packages
BUILDS_RPM := dpkg-source gcc patch perl readelf rpmbuild
HAS_BUILDS_RPM := binutils dpkg-dev gcc libc6-dev patch perl rpm

BOOTS := debugfs depmod ip lz4 mke2fs mmdebstrap nsenter qemu-system-x86_64 xorriso
HAS_BOOTS := e2fsprogs ipxe-qemu iproute2 kmod lz4 mmdebstrap qemu-system-x86 seabios util-linux xorriso

vm: $(READY) ## boot real guests with the package in them, in QEMU; SHARE=smoke: the few of every submission
	$(call need,$(BUILDS_RPM) $(BOOTS),$(HAS_BUILDS_RPM) $(HAS_BOOTS))
	$(BIN)/pytest tests/vm $(if $(SHARE),-m $(SHARE))

rpm: $(READY) ## build the packages, with an interpreter of their own, into dist/, and test both
	$(call need,$(BUILDS_RPM) busybox logrotate rpmlint systemd-analyze unshare xorriso,\
		$(HAS_BUILDS_RPM) busybox-static logrotate rpmlint systemd util-linux xorriso)
	PYTHON=$(CURDIR)/$(BIN)/python packaging/rpm/build.sh
	$(BIN)/pytest tests/rpm

bench: $(READY) ## measure boots beside a bare shell and Debian's cloud-init (root); no figure fails it
	$(call need,$(BUILDS_RPM) $(BOOTS),$(HAS_BUILDS_RPM) $(HAS_BOOTS))
	$(BIN)/python -m tests.bench

clean: ## remove everything that was made here
	rm -rf .venv .cache .coverage* .hypothesis .*_cache build dist *.egg-info contextagent/host/_guestos*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
