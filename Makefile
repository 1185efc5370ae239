# audiodiff: from nothing to audio (`make demo`) and from nothing to passing tests (`make test`).
# Every variable can be set on the command line: make demo PYTHON=python3.12 TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3#        the interpreter that the virtual environment is made with, 3.10 or newer
VENV ?= .venv#            the virtual environment
TORCH_INDEX ?=#           a further package index for torch, such as PyTorch's own for machines without a GPU
CLIP ?= audiodiff/assets/clips/sense-and-sensibility.flac#  the recording of the demo
OUT ?= out#               where `make demo` writes
VOCODE ?= --resample --picture --score --overwrite#  options of `audiodiff vocode` in the demo
PYTEST ?=#                further arguments for pytest

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SAY = @printf '\n==> %s\n'

.DEFAULT_GOAL := help
.PHONY: help demo test quick test-all test-gpu lint format clean
.DELETE_ON_ERROR:

help: ## show this list
	@echo "make TARGET, where TARGET is"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
	@echo "and, if the defaults do not fit, VARIABLE=value, where VARIABLE is"
	@sed -n 's/^\([A-Z_]*\) ?= *\([^#]*\)#* *\(.*\)/  \1\t\3 [\2]/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.installed ## vocode one real recording with the bundled model into OUT
	$(SAY) "Vocoding $(CLIP) into $(OUT)/"
	$(BIN)/audiodiff vocode $(CLIP) --output $(OUT) $(VOCODE)
	$(SAY) "Done. Listen to it and look at it in $(OUT)/:"
	@ls $(OUT)

test: lint ## check style and types, then run the quick tests
	$(SAY) "Running the quick tests"
	$(BIN)/python -m pytest $(PYTEST)

quick: $(VENV)/.installed-dev ## train, synthesise and score a tiny model: all stages of egs/quick/vocoder
	$(SAY) "Running egs/quick/vocoder"
	$(BIN)/python -m pytest -m slow tests/test_egs.py -k test_the_quick_eg

test-all: lint ## the same with the slow tests
	$(SAY) "Running all tests that need no GPU"
	$(BIN)/python -m pytest -m "not gpu" $(PYTEST)

test-gpu: $(VENV)/.installed-dev ## run the tests that need a CUDA device
	$(SAY) "Running the GPU tests"
	$(BIN)/python -m pytest -m gpu $(PYTEST)

lint: $(VENV)/.installed-dev ## check style (ruff) and types (mypy)
	$(SAY) "Checking style"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SAY) "Checking types"
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff format the code and mend what it can
	$(SAY) "Formatting"
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## delete the virtual environment, caches and build products; OUT and exp/ stay
	$(SAY) "Deleting $(VENV), caches and build products"
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) > /dev/null || { echo "error: no $(PYTHON) here; install Python 3.10 or newer, or say which: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $$($(PYTHON) --version) is too old; audiodiff needs 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(SAY) "Making a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(SAY) "Installing audiodiff and what it needs (some hundred MB)"
	@$(call cpu_hint)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(SAY) "Installing audiodiff, what it needs (some hundred MB) and what its tests need"
	@$(call cpu_hint)
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed $@

# pip's default torch for Linux brings several GB of CUDA libraries, which a machine without a GPU has no use for.
define cpu_hint
if [ -z "$(TORCH_INDEX)" ] && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null; then \
  echo "No NVIDIA GPU here. Should pip start to download CUDA libraries (several GB), stop it and run"; \
  echo "  make $(MAKECMDGOALS) TORCH_INDEX=https://download.pytorch.org/whl/cpu"; \
fi
endef
