# Targets: demo, study, test, lint, docs, mutation, crash, bench, clean. Needs Python 3.11 or later, make
# and a C compiler; the rest goes into .venv.
#
#   make demo                # real data, real model, on this machine; a second call continues or ends at once
#   make demo FRESH=1        # start the run over
#   make demo ARGS='experiment=law_firms privacy.epsilon=3'
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    # take torch from there: smaller, without CUDA packages

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
FRESH ?=
JOBS ?= 2

# `make demo rounds=3` would set a variable that nothing reads.
UNKNOWN := $(filter-out PYTHON TORCH_INDEX ARGS FRESH JOBS, \
	$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
ifneq ($(strip $(UNKNOWN)),)
$(error $(strip $(UNKNOWN)): not a setting of this Makefile: write make demo ARGS='key=value ...')
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/installed
INSTALLED_DEV := $(VENV)/installed-dev
INSTALLED_DOCS := $(VENV)/installed-docs
# mypy and the pages of docs/api need a folder named after the package; the repository's root may have any name.
TYPES := $(VENV)/types
EXISTING := $(if $(filter-out 0,$(FRESH)),simulation.existing=fresh)

.PHONY: demo study test lint types docs mutation crash bench clean install install-dev

demo: install
	$(BIN)/cotune demo $(EXISTING) $(ARGS)

study: install
	$(BIN)/cotune study $(EXISTING) $(ARGS)

test: install-dev lint
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup

lint: install-dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	mkdir -p $(TYPES)
	ln -sfn "$(CURDIR)" $(TYPES)/cotune
	cd $(TYPES) && MYPYPATH=. ../bin/mypy --config-file cotune/pyproject.toml -p cotune

# The documents as pages, in site/. A link that leads nowhere is an error.
docs: $(INSTALLED_DOCS)
	mkdir -p $(TYPES)
	ln -sfn "$(CURDIR)" $(TYPES)/cotune
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Leaves out each check of secagg in turn: minutes. Fails where no test notices.
mutation: install-dev
	$(BIN)/python tests/secagg/mutation.py --write docs/secagg-mutations.md

# Kills a member at every event that touches the disk, not at a sample of them: many minutes.
crash: install-dev
	COTUNE_EVERY_CRASH=1 $(BIN)/python -m pytest -q tests/secagg/crash

bench: install-dev
	for file in benchmarks/*.py; do $(BIN)/python "$$file" || exit 1; done

clean:
	rm -rf $(VENV) build dist site *.egg-info secagg/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

install: $(INSTALLED)

install-dev: $(INSTALLED_DEV)

# The stamps make a second call skip the installation; a change of what is installed makes them old.
$(INSTALLED): pyproject.toml constraints.txt secagg/kernel.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11: set PYTHON, e.g. make demo PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install -c constraints.txt --index-url $(TORCH_INDEX) torch)
	rm -f secagg/_kernel*.so
	$(PIP) install -c constraints.txt -e '.[study,parquet]'
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install -c constraints.txt -e '.[study,parquet,dev]'
	touch $@

# Code is read for its docstrings and never imported, so the pages need none of what cotune needs.
$(INSTALLED_DOCS): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $$($(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	touch $@
