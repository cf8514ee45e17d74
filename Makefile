# make demo       fills the example photographs: pictures into demo/, the times of each stage on the screen
# make test       runs the tests
# make lint       ruff, mypy, clang-format
# make bench      runs the benchmarks
# make wheel      builds one wheel into dist/
# make gpu-check  all tests on a machine with an NVIDIA GPU, then the benchmarks
# make clean      removes .venv and everything built
#
# Each target sets up what it needs in .venv and does that again only when the sources have changed. Variables:
#   PYTHON      interpreter to make .venv with                        VENV  another environment, used as it is if it exists
#   TORCH       the torch to install where there is none yet          PIP_FLAGS   options for every pip install
#   TEST_FLAGS  options for pytest                                    DEMO_FLAGS  options for examples/demo.py

PYTHON ?= python3
VENV ?= .venv
DRIVER := $(shell command -v nvidia-smi) $(wildcard /proc/driver/nvidia/version)
TORCH ?= $(if $(strip $(DRIVER)),torch>=2.10,torch==2.13.0)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS)
SOURCES := setup.py pyproject.toml $(shell find build_backend csrc patchswap inpaint -type f ! -name '*.pyc' ! -name '*.so')
HAS_TORCH := import importlib.metadata as m; assert tuple(map(int, m.version("torch").split(".")[:2])) >= (2, 10)

# From here on neither the tools nor what they start import the checkout's packages, which have no compiled library.
export PYTHONSAFEPATH := 1

.PHONY: demo test lint bench wheel gpu-check clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(DEMO_FLAGS)

test: $(VENV)/.installed-dev
	$(BIN)/pytest $(TEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy patchswap inpaint
	$(BIN)/clang-format --dry-run -Werror $$(find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

bench: $(VENV)/.installed-dev
	$(BIN)/pytest benchmarks --benchmark-only

wheel: $(VENV)/.torch
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .

gpu-check: $(VENV)/.installed-dev
	@$(BIN)/python -c "import torch; raise SystemExit(not torch.cuda.is_available())" \
		|| { echo "gpu-check: torch finds no NVIDIA GPU on this machine, nothing was checked"; exit 1; }
	@$(BIN)/python -I -c "import patchswap; raise SystemExit(not patchswap.build_info()['cuda_kernel'])" \
		|| { echo "gpu-check: patchswap was built without CUDA kernels: install nvcc, then make clean gpu-check"; exit 1; }
	$(BIN)/pytest -m gpu $(TEST_FLAGS)
	$(BIN)/pytest -m "not gpu" $(TEST_FLAGS)
	$(BIN)/pytest benchmarks --benchmark-only

clean:
	rm -rf .venv build dist demo *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.torch:
	@test -x $(BIN)/pip || { echo "==> creating $(VENV)"; $(PYTHON) -m venv $(VENV); } \
		|| { echo "error: found no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -c '$(HAS_TORCH)' 2>/dev/null \
		|| { echo "==> installing $(TORCH) into $(VENV)"; $(PIP) "$(TORCH)"; }
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	@echo "==> building patchswap and installing it into $(VENV)"
	@$(PIP) .
	@$(BIN)/python -I -c 'import patchswap; print(patchswap.build_info())'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch $(SOURCES)
	@echo "==> building patchswap and installing it into $(VENV), with the tools for tests, training and evaluation"
	@$(PIP) ".[dev,train,eval]"
	@$(BIN)/python -I -c 'import patchswap; print(patchswap.build_info())'
	@touch $(VENV)/.installed $@
