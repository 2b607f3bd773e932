# Few verbs. `make demo` and `make test` do all the set-up; they need only Python >= 3.11 with
# venv (on Debian the package python3-venv).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test parts check bench man clean

demo: $(VENV)/.for-demo
	@$(BIN)/amesh demo

# A file of tests is one worker's, as its fixtures start servers; tests/conftest.py says how many
# workers, and lets a test be alone that wants to be.
test: $(VENV)/.for-work
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# What tests start for real, and what the extra `tpm` is built with: the system's own packages.
parts:
	@missing=''; \
	need() { PATH=$$PATH:/usr/sbin command -v $$1 >/dev/null || missing="$$missing $$2"; }; \
	need redis-server redis-server; need nginx nginx-light; \
	need haproxy haproxy; need caddy caddy; need systemd-analyze systemd; \
	need gcc 'gcc libc6-dev'; need pkg-config pkg-config; \
	pkg-config --exists tss2-esys 2>/dev/null || missing="$$missing libtss2-dev"; \
	need swtpm swtpm; need tpm2_sign tpm2-tools; \
	need openssl openssl; \
	ls /usr/lib/*/ossl-modules/tpm2.so /usr/lib*/ossl-modules/tpm2.so 2>/dev/null | grep -q . || \
	  missing="$$missing tpm2-openssl"; \
	need gnome-keyring-daemon gnome-keyring; need dbus-run-session dbus; \
	[ -z "$$missing" ] && exit 0; \
	echo "The tests need$$missing."; \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || \
	  { echo "Install it, on Debian: sudo apt-get install$$missing"; exit 1; }; \
	apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $$missing

check: $(VENV)/.for-work
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.man --check

bench: $(VENV)/.for-work
	$(BIN)/python -m bench

man: $(VENV)/.for-work
	$(BIN)/python -m tools.man

$(BIN)/pip:
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'amesh needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv);'; \
	    echo 'another interpreter: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@echo 'Making a virtual environment in $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)

# Two stamps, so that the demo does not wait for the tools of development; these include its own.
$(VENV)/.for-demo: pyproject.toml constraints.txt | $(BIN)/pip
	@echo 'Installing amesh into it ...'
	@$(INSTALL) '.[demo]'
	@touch $@

$(VENV)/.for-work: pyproject.toml constraints.txt | parts $(BIN)/pip
	@echo 'Installing amesh and the tools of development into $(VENV) ...'
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.for-demo

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
