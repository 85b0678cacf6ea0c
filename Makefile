# make demo and make test are all anybody needs, make example to try a deployment; each creates and fills .venv first if it has to.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell command -v python$(version))) python3.11)
VENV := .venv
BIN := $(VENV)/bin
# What an environment is made of. Its digest names the stamp: as long as it stays, nothing is installed again.
INPUTS := pyproject.toml constraints.txt
DIGEST := $(shell cat $(INPUTS) | sha256sum | cut -c1-16)
STAMP := $(VENV)/.zkapex-$(DIGEST)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Further options of zkapex demo or pytest, e.g. make demo ARGS="--cheat replay"
ARGS ?=

.PHONY: help demo example test test-slow test-faults test-soak test-soak-nodes test-hub conformance fuzz lint lock docs reference screenshots limits release results clean
.DEFAULT_GOAL := help

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

$(STAMP): $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing zkapex into $(VENV), which takes a minute or more ..."
	$(PIP) install --quiet --constraint constraints.txt --editable '.[simulation]'
	rm -f $(VENV)/.zkapex-*
	touch $@

# The tools for development on top, for everything but the demo.
$(STAMP)-dev: $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,docs,vision,web]'
	touch $@

demo: $(STAMP) ## Run the whole thing: a federation that unlearns and proves it
	$(BIN)/zkapex demo $(ARGS)

# With the console on top, in one go.
$(STAMP)-web: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing zkapex into $(VENV), which takes a minute or more ..."
	$(PIP) install --quiet --constraint constraints.txt --editable '.[simulation,web]'
	rm -f $(VENV)/.zkapex-*
	touch $(STAMP) $@

example: $(STAMP)-web ## Order a deletion yourself: a server, two devices and the console on this machine
	$(BIN)/zkapex server example zkapex-example $(ARGS)

test: $(STAMP)-dev ## Run the tests
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP)-dev ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow $(ARGS)

test-faults: $(STAMP)-dev ## Kill, cut, fill and restore at every durable write of server and devices (an hour)
	$(BIN)/python -m pytest tests/faults $(ARGS)

test-soak: $(STAMP)-dev ## 100 devices, 20 requests, churn and cheats; prints what was measured (an hour)
	PYTHONPATH=tests/support $(BIN)/python tests/support/soak.py $(ARGS)

test-soak-nodes: $(STAMP)-dev ## 8 real devices, 5 requests, one device away at each; prints what was measured
	PYTHONPATH=tests/support $(BIN)/python tests/support/soak_nodes.py $(ARGS)

# Not part of dev: what loads data sets by name is 70 MB more, and wants older releases of two packages.
test-hub: ## Run the tests of data sets by name, in an environment of their own
	test -x $(VENV)-hub/bin/python || $(PYTHON) -m venv $(VENV)-hub
	$(VENV)-hub/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints-hub.txt --editable '.[dev,hub]'
	$(VENV)-hub/bin/python -m pytest tests/simulation/test_hub.py $(ARGS)

conformance: $(STAMP)-dev ## Build the conformance suite's receipts anew, or those that ARGS names
	PYTHONPATH=tests/support $(BIN)/python tests/conformance/build.py $(ARGS)

fuzz: $(STAMP)-dev ## Fuzz the decoders for ten minutes, e.g. ARGS="-max_total_time=60"
	PYTHONPATH=tests/support $(BIN)/python tests/fuzz/fuzz.py -max_total_time=600 $(ARGS)

lint: $(STAMP)-dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive circuits client proofs server simulation zkapex/*.py \
	  zkapex/cli zkapex/costs zkapex/host zkapex/transport zkapex/unlearning

results: $(STAMP) ## Write docs/results.md and its plots from results/*.json
	$(BIN)/python -m zkapex.simulation.evaluation.report.report results docs

docs: $(STAMP)-dev ## Build the documentation site into site/
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site

reference: $(STAMP) ## Write docs/reference/commands.md and settings.md from the code itself
	$(BIN)/python -m zkapex.cli.reference docs/reference/commands.md docs/reference/settings.md

screenshots: $(STAMP)-dev ## Write the pictures of the console's pages, of a federation that runs in the tests
	ZKAPEX_SCREENSHOTS=docs/img/console $(BIN)/python -m pytest -n 0 -q tests/browser -k screenshots

limits: $(STAMP)-dev ## Write the tables of docs/limits.md from the cases that the tests check
	PYTHONPATH=tests/support $(BIN)/python tests/support/limits.py docs/limits.md

release: ## Build wheel, sdist and SBOM into dist/, the same every time
	.ci/release

lock: ## Write constraints.txt and constraints-hub.txt anew from a fresh environment
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip --disable-pip-version-check install --quiet '.[dev,docs,lm,vision,web]'
	{ echo "# Every package of an environment of zkapex, for Python 3.11 on Linux; written by make lock."; \
	  $(VENV)-lock/bin/python -m pip freeze --exclude zkapex | sed -E 's/^(torch==[0-9.]+)\+cpu$$/\1/'; } > constraints.txt
	grep -Ev '^(fsspec|huggingface_hub)==' constraints.txt > $(VENV)-lock/kept.txt
	$(VENV)-lock/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(VENV)-lock/kept.txt '.[dev,docs,hub,lm,vision,web]'
	{ echo "# As constraints.txt, with the extra hub and what it needs; written by make lock."; \
	  $(VENV)-lock/bin/python -m pip freeze --exclude zkapex | sed -E 's/^(torch==[0-9.]+)\+cpu$$/\1/'; } > constraints-hub.txt
	rm -rf $(VENV)-lock

clean: ## Remove the environment and everything a tool has cached
	rm -rf $(VENV) $(VENV)-hub $(VENV)-lock $(VENV)-release build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
