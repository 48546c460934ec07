# Two commands do all the set-up: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes; what a file sets up is set up once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
STAGES := pretrain selection trainers
# The package as it is installed, for the type checker: the stages lie beside it in a checkout.
TYPED := $(VENV)/typed/nnunetv2_xssr

.PHONY: demo test test-all compat lint docs clean

# torch goes first and pinned, so that nothing that follows replaces it with another build.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/nnUNetv2_xssr_demo

test: $(VENV)/installed lint
	$(PYTEST) -m "not slow"

# With what `make test` leaves out because it is slow.
test-all: $(VENV)/installed lint
	$(PYTEST)

# With other versions of Python and nnU-Net, and the lowest that setup.cfg allows: see .ci/compat.py.
compat: $(VENV)/installed
	$(BIN)/python -m pip install -q uv
	$(BIN)/python .ci/compat.py $(COMPAT)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPED) && mkdir -p $(TYPED)
	ln -s $(addprefix $(CURDIR)/,$(filter-out %/__pycache__,$(wildcard nnunetv2_xssr/*)) $(STAGES)) $(TYPED)
	cd $(VENV)/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p nnunetv2_xssr

# Strict: a page that is not listed, a dead link or a wrong anchor fails. The pages lie in build/site.
docs: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +  # numba keeps compiled loops there, and misses some edits
