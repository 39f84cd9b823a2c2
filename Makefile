# README.md says how to do what `make demo` does by hand, and tests/README.md what `make test` does.

PYTHON ?= python3
ADMIN := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := env DEBIAN_FRONTEND=noninteractive apt-get
BIN := .venv/bin
PIP := pip install --disable-pip-version-check

# What PyAudio is built with, and, for the tests, a microphone, a screen and a browser.
DEBIAN_PACKAGES := gcc python3-dev python3-venv portaudio19-dev
DEBIAN_TEST_PACKAGES := pulseaudio pulseaudio-utils libasound2-plugins flite sox libnss3-tools \
  xvfb xdotool tmux iproute2 asterisk-core-sounds-en-wav alsa-utils

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s%s\n", $$1, $$2 }' Makefile

demo: .venv/lessons  ## hear samples/speech.wav, sent as a file and spoken live
	@$(BIN)/python samples/demo.py

check: .venv/check lint  ## check style and types, and run the tests that need nothing but Python: two minutes
	$(BIN)/python -m pytest -m quick -n 2

test: .venv/tests  ## run all tests, as CI does
	$(BIN)/python -m pytest -n 2

test-again: .venv/tests  ## run what failed once more, with nothing else beside it
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures=none

test-lowest: .venv-lowest/tests  ## the same with the lowest versions in requirements.txt
	.venv-lowest/bin/python -m pytest

lint: .venv/check  ## check style and types
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

# pip shows its progress, because a long silence looks like a fault.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed. If you have one: make PYTHON=python3.13 demo"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/lessons: requirements.txt | $(BIN)/python
	@if command -v apt-get >/dev/null; then \
	  dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1 || { \
	    echo "Installing what PyAudio is built with: $(DEBIAN_PACKAGES)"; \
	    $(ADMIN) $(APT) update && $(ADMIN) $(APT) install -y $(DEBIAN_PACKAGES); }; \
	elif command -v brew >/dev/null; then \
	  brew list portaudio >/dev/null 2>&1 || brew install portaudio; \
	fi
	@echo "Installing the Python packages of the lessons into .venv, once: a gigabyte, some minutes."
	$(BIN)/$(PIP) -r requirements.txt
	@touch $@

# PyAudio alone needs system packages where it is built, and no test of make check needs it.
.venv/check: requirements.txt tests/requirements.txt | $(BIN)/python
	@echo "Installing the Python packages of lessons and tests into .venv, once: a gigabyte, some minutes."
	grep -v '^pyaudio' requirements.txt >.venv/without-pyaudio.txt
	$(BIN)/$(PIP) -r .venv/without-pyaudio.txt -r tests/requirements.txt
	@touch $@

.venv/tests: .venv/lessons .venv/check
	@if command -v apt-get >/dev/null; then \
	  dpkg -s $(DEBIAN_TEST_PACKAGES) >/dev/null 2>&1 && \
	  { command -v chromium || command -v google-chrome; } >/dev/null || { \
	    echo "Installing what the tests use as microphone, voice, screen, terminal and browser:"; \
	    echo "$(DEBIAN_TEST_PACKAGES) chromium"; \
	    $(ADMIN) $(APT) update && $(ADMIN) $(APT) install -y $(DEBIAN_TEST_PACKAGES) \
	    $$(apt-cache show chromium >/dev/null 2>&1 && echo chromium); }; \
	fi
	@echo "Installing OpenAI's own client and FastAPI's own starter, each in an environment of its own."
	$(PYTHON) -m venv .venv-openai
	.venv-openai/bin/$(PIP) "openai[realtime]"
	$(PYTHON) -m venv .venv-fastapi
	.venv-fastapi/bin/$(PIP) fastapi-cli
	@touch $@

.venv-lowest/tests: .venv/tests requirements.txt tests/requirements.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/$(PIP) uv
	.venv-lowest/bin/uv pip compile -q --resolution lowest-direct requirements.txt -o .venv-lowest/lowest.txt
	.venv-lowest/bin/uv pip install --python .venv-lowest -r .venv-lowest/lowest.txt -r tests/requirements.txt
	@touch $@

# The service to compare with lives by itself, because it pins libraries that the lessons use.
.venv/bench: .venv/tests benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/$(PIP) -r benchmarks/requirements.txt
	@touch $@

.PHONY: help demo check test test-again test-lowest lint soak bench
