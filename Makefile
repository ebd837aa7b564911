# make demo   everything from voices to a spoken answer, under out/demo (resumable)
# make test   the tests (a bare machine is enough)
# make clean  removes out/demo; `make distclean` removes .venv too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export JAX_PLATFORMS ?= cpu

.PHONY: demo test test-slow clean distclean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4

# One stamp a set of extras: the environment is made once and again only when the requirements change.
$(VENV)/.test: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[train,test]'
	touch $@

$(VENV)/.demo: $(VENV)/.test
	$(PIP_INSTALL) -e '.[train,eval,demo,test]'
	touch $@

# The clock of the demo starts before the installation: its minutes count.
demo:
	@mkdir -p $(OUT) && (test -e $(OUT)/started || date +%s > $(OUT)/started)
	@$(MAKE) --no-print-directory $(VENV)/.demo
	$(BIN)/python -m launch.demo --out $(OUT)

test: $(VENV)/.test
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(OUT)

distclean: clean
	rm -rf $(VENV)
