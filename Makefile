# Two commands on a fresh machine that has Python 3.11 or newer and nothing else:
#   make demo    install, and run the whole way on phantoms: two CPU cores, at most 5 minutes
#   make test    install what is missing, and pass the tests
# Another Python: make PYTHON=python3.12 demo
.POSIX:

PYTHON = python3
VENV = .venv
RUN = runs/demo
BIN = $(VENV)/bin
PINNED = pyproject.toml constraints.txt

demo: $(VENV)/base.stamp
	$(BIN)/medsynth demo $(RUN)

# One thread a process: as many processes as cores do the work. In the files' own order: else those
# with few tests, which are the long ones, come last and one core waits.
test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/dev.stamp
	$(BIN)/python docs/generate.py

# The pages as a site: open build/site/index.html. Neither building nor reading it needs a network.
site: $(VENV)/dev.stamp
	$(BIN)/python -m sphinx -q -W -n -b html docs build/site

clean:
	rm -rf $(VENV) build dist runs/demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An install is done again where pyproject.toml or constraints.txt changed.
$(VENV)/base.stamp: $(PINNED)
	$(MAKE) venv PYTHON="$(PYTHON)" VENV="$(VENV)"
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/dev.stamp: $(PINNED)
	$(MAKE) venv PYTHON="$(PYTHON)" VENV="$(VENV)"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(VENV)/base.stamp $@

venv:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
		{ echo 'medsynth needs Python 3.11 or newer; $(PYTHON) was not found.' \
		'Install one, or name it: make PYTHON=/path/to/python3.12 demo' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "medsynth needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		'Name another: make PYTHON=python3.12 demo' >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)

.PHONY: demo test lint docs site clean venv
