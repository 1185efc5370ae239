# `make demo` installs audiodiff and vocodes a recording; `make test` installs it and runs the tests.
# Variables can be set on the command line: make demo PYTHON=python3.12 TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3#        the interpreter for the virtual environment, 3.10 or newer
VENV ?= .venv#            the virtual environment
TORCH_INDEX ?=#           an extra package index for torch, such as that of CPU builds
CLIP ?= audiodiff/assets/clips/sense-and-sensibility.flac#  the recording of the demo
OUT ?= out#               where `make demo` writes
VOCODE ?= --resample --plot --score --overwrite#  options of `audiodiff vocode` in the demo
PYTEST ?=#                further arguments for pytest
GPU_OUT ?= out/gpu#       where `make gpu` and `make gpu-models` write
GPU_STAGES ?= tests bench train#  what `make gpu` does, in this order
GPU_SECONDS ?= 120#       time limit of its tests; benchmark and training have twice and half of it
GPU_RUNS ?= egs/gpu-runs.txt#  what `make gpu-models` trains: a line per run
DATA ?= data#             what `make gpu-models` trains on: a folder with lists/ and recordings

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# With PYTHON on the command line, `make gpu` runs that interpreter as it is: GPU machines may have no package index.
GPU_PYTHON = $(if $(filter command line,$(origin PYTHON)),$(PYTHON),$(BIN)/python)
SAY = @printf '\n==> %s\n'

.DEFAULT_GOAL := help
.PHONY: help demo test quick test-all gpu gpu-models lint format clean
.DELETE_ON_ERROR:

help: ## list the targets and variables
	@echo "usage: make TARGET [VARIABLE=value ...]"; echo; echo "targets"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
	@echo; echo "variables [default]"
	@sed -n 's/^\([A-Z_]*\) ?= *\([^#]*\)#* *\(.*\)/  \1\t\3 [\2]/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.installed ## install, then vocode a recording with the bundled model into OUT
	$(SAY) "Vocoding $(CLIP) into $(OUT)/"
	$(BIN)/audiodiff vocode $(CLIP) --output $(OUT) $(VOCODE)
	$(SAY) "Done. Listen to and look at the results in $(OUT)/:"
	@ls $(OUT)
	@echo; echo "To use the command audiodiff in this shell: source $(BIN)/activate"

test: lint ## install, check style and types, run the quick tests
	$(SAY) "Running the quick tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

quick: $(VENV)/.installed-dev ## train, synthesise with and score a tiny model (egs/quick/vocoder)
	$(SAY) "Running egs/quick/vocoder"
	$(BIN)/python -m pytest -m slow tests/test_egs.py -k test_the_quick_eg

test-all: lint ## like test, with the slow tests too
	$(SAY) "Running all tests that need no GPU"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not gpu" $(PYTEST)

gpu: $(if $(filter command line,$(origin PYTHON)),,$(VENV)/.installed-dev) ## on a CUDA device: its tests, then a benchmark, then training; logs and JSON in GPU_OUT
	@mkdir -p $(GPU_OUT)
	@nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee $(GPU_OUT)/device.txt
	@failed=; for stage in $(GPU_STAGES); do $(MAKE) --no-print-directory gpu-$$stage PYTHON=$(GPU_PYTHON) || failed="$$failed $$stage"; done; \
	  ls -l $(GPU_OUT); [ -z "$$failed" ] || { echo "failed or cut off:$$failed"; exit 1; }

gpu-%: SHELL := /bin/bash
gpu-%: .SHELLFLAGS := -o pipefail -c
gpu-%: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu-%: export PYTHONUNBUFFERED := 1
gpu-%: LIMIT = timeout --signal=INT --kill-after=10 $$(( $(GPU_SECONDS) $(1) )) $(PYTHON)

gpu-tests:
	$(SAY) "GPU tests, at most $(GPU_SECONDS) s"
	@mkdir -p $(GPU_OUT)
	@$(call LIMIT) -m pytest -m gpu -p no:cacheprovider --durations=10 --junitxml=$(GPU_OUT)/tests.xml $(PYTEST) \
	  $$(grep -rl 'mark.gpu' tests --include='test_*.py') 2>&1 | tee $(GPU_OUT)/tests.log

gpu-bench:
	$(SAY) "Benchmark, at most twice as long"
	@mkdir -p $(GPU_OUT)
	@against=; $(PYTHON) -c 'import diffwave.model' 2> /dev/null && against="--against diffwave"; \
	  $(call LIMIT,* 2) -m audiodiff bench speech-22k $$against --device cuda --dtype bf16 --lengths 5 --batches 1,16 \
	    --no-memory --no-streaming --json $(GPU_OUT)/bench.json 2>&1 | tee $(GPU_OUT)/bench.log
	@$(PYTHON) -m audiodiff bench --table $(GPU_OUT)/bench.json > $(GPU_OUT)/bench.md

gpu-train:
	$(SAY) "Training throughput, at most half as long"
	@mkdir -p $(GPU_OUT)
	@run=$$(mktemp -d); trap 'rm -rf "$$run"' EXIT; \
	  $(call LIMIT,/ 2) -m audiodiff -v train egs/speech/vocoder/conf/denoise.yaml --run "$$run" \
	  --set data.train=audiodiff/assets/clips --set data.valid=null --set data.valid_fraction=0.2 --set training.device=cuda \
	  --set training.batch_size=128 --set training.steps=400 --set training.validate_every=400 --set training.sample_every=400 \
	  2>&1 | tee $(GPU_OUT)/train.log

gpu-models: ## train the models of GPU_RUNS on DATA with the interpreter PYTHON, each for its minutes, into GPU_OUT
	PYTHON=$(PYTHON) egs/gpu-train.sh $(GPU_RUNS) $(GPU_OUT) $(DATA)

lint: $(VENV)/.installed-dev ## check style (ruff) and types (mypy)
	$(SAY) "Checking style"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SAY) "Checking types"
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## format the code, and fix what ruff can
	$(SAY) "Formatting"
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## delete the virtual environment, caches and build products; OUT and exp/ are kept
	$(SAY) "Deleting $(VENV), caches and build products"
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) was not found. Install Python 3.10 or newer, or choose one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $$($(PYTHON) --version) is too old. audiodiff needs 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(SAY) "Creating a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(SAY) "Installing audiodiff and its dependencies (several hundred MB)"
	@$(call cpu_hint)
	$(PIP_INSTALL) --editable '.[plots]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(SAY) "Installing audiodiff, its dependencies (several hundred MB) and those of its tests"
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
