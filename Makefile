# What `make demo` and `make test` do is also in README.md, for Windows and for the curious.

PYTHON ?= python3
ADMIN := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := env DEBIAN_FRONTEND=noninteractive apt-get
BIN := .venv/bin

# What PyAudio is built with, and, for the tests, a microphone, a screen and a browser.
DEBIAN_PACKAGES := gcc python3-dev python3-venv portaudio19-dev
DEBIAN_TEST_PACKAGES := pulseaudio pulseaudio-utils libasound2-plugins flite sox libnss3-tools \
  xvfb xdotool tmux iproute2

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s%s\n", $$1, $$2 }' Makefile

demo: .venv/lessons  ## hear samples/speech.wav, sent as a file and spoken live
	@sh samples/demo.sh $(BIN)/python

test: .venv/tests  ## run all tests, as CI does
	$(BIN)/python -m pytest -n 2

test-again: .venv/tests  ## run what failed once more, with nothing else beside it
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures=none

test-lowest: .venv-lowest/tests  ## the same with the lowest versions in requirements.txt
	.venv-lowest/bin/python -m pytest

lint: .venv/tests  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github

soak: .venv/tests  ## let sixteen people speak for half an hour: does the service stay level?
	PYTHONPATH=tests/rig $(BIN)/python tests/service/soak.py

bench: .venv/bench  ## measure everything; ONLY="echo one" measures only that
	PYTHONPATH=tests/rig $(BIN)/python benchmarks/run.py $(ONLY)

# ------------------------------------------------------------------------------------ set-up

.venv/lessons: requirements.txt
	@echo "Setting up, once: system packages, then .venv with requirements.txt: a gigabyte, some minutes."
	@if command -v apt-get >/dev/null; then \
	  dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1 || \
	  { $(ADMIN) $(APT) update -qq && $(ADMIN) $(APT) install -y -qq $(DEBIAN_PACKAGES) >/dev/null; }; \
	elif command -v brew >/dev/null; then \
	  brew list portaudio >/dev/null 2>&1 || brew install portaudio; \
	fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed. If there is one: make PYTHON=python3.13 demo"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/tests: .venv/lessons tests/requirements.txt
	@if command -v apt-get >/dev/null; then \
	  dpkg -s $(DEBIAN_TEST_PACKAGES) >/dev/null 2>&1 && \
	  { command -v chromium || command -v google-chrome; } >/dev/null || \
	  { $(ADMIN) $(APT) update -qq && $(ADMIN) $(APT) install -y -qq $(DEBIAN_TEST_PACKAGES) \
	    $$(apt-cache show chromium >/dev/null 2>&1 && echo chromium) >/dev/null; }; \
	fi
	$(BIN)/pip install -q --disable-pip-version-check -r tests/requirements.txt
	$(PYTHON) -m venv .venv-openai
	.venv-openai/bin/pip install -q --disable-pip-version-check "openai[realtime]"
	$(PYTHON) -m venv .venv-fastapi
	.venv-fastapi/bin/pip install -q --disable-pip-version-check fastapi-cli
	@touch $@

.venv-lowest/tests: .venv/tests requirements.txt tests/requirements.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install -q --disable-pip-version-check uv
	.venv-lowest/bin/uv pip compile -q --resolution lowest-direct requirements.txt -o .venv-lowest/lowest.txt
	.venv-lowest/bin/uv pip install -q --python .venv-lowest -r .venv-lowest/lowest.txt -r tests/requirements.txt
	@touch $@

# The service to compare with lives by itself, because it pins libraries that the lessons use.
.venv/bench: .venv/tests benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

.PHONY: help demo test test-again test-lowest lint soak bench
