# Two commands for everybody: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := serve,export,optimum,train,traces,bench,http,console,dev
NEWEST := .venv-newest
COMMA := ,

.PHONY: demo test test-nightly test-newest test-all lint docs install clean

demo: install
	$(BIN)/recserve demo

# Tests that share servers run in one process, from the start; another one begins with the rest.
PYTEST = $(BIN)/pytest --dist loadgroup --no-loadscope-reorder -n 2

test: install
	$(PYTEST) -m 'not nightly'

# One group of the nightly tests: make test-nightly GROUP=kills; wide is the default tier with more examples.
test-nightly: install
ifeq ($(GROUP),wide)
	$(PYTEST) -m 'not nightly and not triton' --hypothesis-profile wide
else
	$(PYTEST) -m '$(GROUP)'
endif

# What uses transformers and sentence-transformers with their newest versions, which [optimum] does not allow.
test-newest:
	$(MAKE) install VENV=$(NEWEST) EXTRAS=$(subst optimum$(COMMA),,$(EXTRAS))
	$(NEWEST)/bin/python -m pip install --quiet 'transformers>=5' 'sentence-transformers>=6'
	$(NEWEST)/bin/pytest tests/unit/export/encoder tests/unit/export/training/encoder

test-all: install
	$(PYTEST)
	$(MAKE) test-nightly GROUP=wide

lint: install
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: install
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python docs/tools/reference_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(VENV)/installed

# torch comes first and pinned: an open range pulls several GB of CUDA.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: Python 3.11 to 3.13 is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install 'torch==2.13.0'
	$(BIN)/python -m pip install -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) $(NEWEST) .recserve site
