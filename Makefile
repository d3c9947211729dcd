# Everything is a target: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
TOOLS := cmake==4.4.4 ninja==1.13.2 pybind11==3.1.0 "setuptools>=77" wheel
# Processes that run tests: one a core, of eight at most.
JOBS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 8 ? cores : 8)))
DISASSEMBLER := nvidia-cuda-nvdisasm==13.5.37
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
# Modules are compiled when they are first imported, and most of torch's never are.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

# CUDA kernels are compiled for the GPU that is here, or for one architecture if there is none: each takes minutes.
CAPABILITY := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+\.[0-9]+' | head -n 1 | tr -d .)
export CUDAARCHS ?= $(or $(CAPABILITY),90)-real
# `make build` and `make demo` compile what this machine can run: CPU kernels for its instruction set, and CUDA kernels where
# there is a GPU. CUDA=1 asks for all instruction sets and, with an nvcc, the CUDA kernels, as the tests do; CUDA=0 for neither.
CUDA ?= $(if $(CAPABILITY),1,0)
FULL_BUILD := $(VENV)/.built-full
BUILD := $(if $(filter-out 0,$(CUDA)),$(FULL_BUILD),$(VENV)/.built)

# Succeeds where the build that is installed has the CUDA kernels.
HAS_CUDA := $(BIN)/python -c "import sys; from mlloss_cuda import _extension; sys.exit(not _extension.build_information()['cuda'])"

# FULL=1 runs all of what a target otherwise takes a share of.
FULL ?=

# The parts of `make test` and `make check`, in order. PART="test-races docs" runs these alone.
TEST_PARTS := part-host part-python
CHECK_PARTS := lint test-triton part-ahead-of-time test-emulated test-races check-machine-code part-vectorised test-machines \
  docs part-dry-run packages part-training $(if $(FULL),test-others part-sanitized)

# Tests start hundreds of processes that import torch, in half the time with its bytecode kept.
export PYTHONDONTWRITEBYTECODE :=

.NOTPARALLEL:
.PHONY: help build demo test check bench gpu report docs lint clean packages test-triton test-emulated test-races test-machines \
  test-others check-machine-code part-host part-python part-ahead-of-time part-sanitized part-vectorised part-dry-run part-training

define HELP
To use it:
  make demo                train four losses on real data and compare them
  make build               compile the package in place (CUDA=1: with the CUDA kernels)
  make bench               compare with other implementations on this CPU (FULL=1: more of them)
  make gpu                 test and measure on a GPU (DRY=1: walk through it without one)
To change it:
  make test                the tests, on the CPU and on the GPU if there is one
  make check               all other checks, one after another (FULL=1: without leaving any out)
  make test PART=... or check PART=...   some parts of these, which are the targets below and
                           part-host, part-python; part-ahead-of-time, part-vectorised, part-dry-run, part-training,
                           part-sanitized
  make test-triton         the Triton kernels by the interpreter
  make test-emulated       the CUDA kernels on the CPU
  make test-races          the CUDA kernels under a race detector, and whether planted bugs are found
  make test-machines       the tests as on other processors
  make test-others         against other packages' losses
  make check-machine-code  registers, spills and instructions of the CUDA kernels (UPDATE=1 writes the budgets)
  make packages            the wheel and the source distribution, installed and used
  make lint                style and types (FIX=1 fixes the style, and completes the lists of arguments)
To publish it:
  make docs                the documentation as pages, in build/site
  make report              tables, pages and pictures from bench/results
  make clean               remove what was built
endef
help:
	$(info $(HELP))
	@:

build: $(BUILD)

$(VENV)/.torch: Makefile
	@echo "== $(VENV): $(TORCH), numpy and the build's tools"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH) numpy
	@$(PIP) $(TOOLS)
	@touch $@

# $(1): what is compiled, in words. $(2): arguments for CMake. The libraries are built in place first, so that ninja shows
# how far it is. The package is editable, with the torch that is there: an isolated build would draw gigabytes of another one.
define compile
	@echo "== compiling $(1)"
	@CMAKE_ARGS="$(2) $$CMAKE_ARGS" $(BIN)/python setup.py --quiet build_ext --inplace
	@echo "== installing the package and what its demo needs"
	@CMAKE_ARGS="$(2) $$CMAKE_ARGS" $(PIP) --no-build-isolation -e ".[demo]"
endef

$(VENV)/.built: $(VENV)/.torch $(NATIVE)
	$(call compile,the CPU kernels for this machine,-DMLLOSS_CUDA=OFF -DMLLOSS_NATIVE=ON)
	@touch $@

# A full build serves where the other one does.
$(FULL_BUILD): $(VENV)/.torch $(NATIVE)
	$(call compile,all CPU kernels and (where there is an nvcc) the CUDA kernels,)
	@touch $(VENV)/.built $@

# Tests and checks need these tools. The extra is that of the package that is installed, so nothing is built anew.
$(VENV)/.dev: $(VENV)/.built
	@echo "== installing the tools that tests and checks need"
	@$(PIP) "mlloss-cuda[dev]"
	@touch $@

# On a GPU these tests run the CUDA kernels too.
test: $(FULL_BUILD) $(VENV)/.dev
	@MAKE="$(MAKE)" $(BIN)/python -m tests.run test $(or $(PART),$(TEST_PARTS))

# All other checks that a change has to pass. WITHOUT="docs packages" leaves some parts out.
check: $(FULL_BUILD) $(VENV)/.dev
	@MAKE="$(MAKE)" $(BIN)/python -m tests.run check $(filter-out $(WITHOUT),$(or $(PART),$(CHECK_PARTS)))

part-python: $(FULL_BUILD) $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# The same tests as on other processors and with other numbers of threads; the share takes few minutes.
test-machines: $(FULL_BUILD) $(VENV)/.dev
	$(BIN)/python -m tests.machines $(if $(FULL),,--share)

# The Triton kernels on the CPU, by Triton's interpreter.
test-triton: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) tests --interpreted $(if $(FULL),,--brief=40)

# The loops of the CPU kernels, by the compiler's own report.
part-vectorised: $(VENV)/.dev
	$(BIN)/python -m tests.vectorised

# The Triton kernels compiled for GPUs that are not there: by the oldest Triton that is served, which is torch 2.11's, every
# kernel for sm_90; by the newest, TARGETS, and for the share the kernels of the calls that most users make.
OLDEST_TRITON := 3.6.0
TARGETS ?= $(if $(FULL),,sm_90)
part-ahead-of-time: $(VENV)/.dev build/triton-$(OLDEST_TRITON)/.there
	$(BIN)/python -m tests.ahead_of_time --jobs $(JOBS) --also build/triton-$(OLDEST_TRITON) $(if $(FULL),,--brief) $(TARGETS)

# This Triton has a folder of its own, beside the one that the torch here takes.
build/triton-$(OLDEST_TRITON)/.there: $(VENV)/.torch
	@$(PIP) --no-deps --target $(@D) --upgrade triton==$(OLDEST_TRITON)
	@touch $@

# The CUDA kernels on the CPU, in builds of their own, which need the toolkit's headers. $(1): what is built. $(2): what runs.
EMULATED := build/emulated/tests/emulator
define emulated
	@if $(HAS_CUDA); then set -ex; mkdir -p build; \
	  $(BIN)/cmake -S . -B build/emulated -G Ninja "-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja" -DMLLOSS_PYTHON=OFF \
	    -DMLLOSS_EMULATED=ON -DMLLOSS_RACES_BRIEF=$(if $(FULL),OFF,ON) $$($(BIN)/python setup.py --print-cmake-paths) >build/emulated.log || { cat build/emulated.log; exit 1; }; \
	  $(BIN)/cmake --build build/emulated --target $(1); \
	  $(2); \
	else echo "skipped: the package is built without CUDA, since no nvcc was found"; fi
endef

EMULATED_TESTS := $(BIN)/python -m pytest -n $(JOBS) tests --emulated $(EMULATED)/emulated.so
test-emulated: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,emulated,$(EMULATED_TESTS) $(if $(FULL),,--brief=20))

# Once more under AddressSanitizer and UndefinedBehaviorSanitizer, whose build takes nine minutes. They are loaded before
# Python, and the C++ library too, or they miss its exceptions; they write past pytest's capture, for they end the process.
SANITIZED = ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  $(BIN)/python -m pytest -n $(JOBS) tests --emulated $(EMULATED)/emulated_sanitized.so --capture=sys
part-sanitized: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,emulated_sanitized,$(SANITIZED) $(if $(FULL),,--brief=14); \
	  $(BIN)/python -m pytest -n $(JOBS) tests/races/test_sanitized_engine.py --races $(EMULATED))

# The detectors' own test, the kernels under the race detector, and whether tests notice what is broken on purpose.
RACES := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/races --races $(EMULATED)
test-races: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,races $(if $(FULL),emulated_sanitized),$(RACES) $(if $(FULL),,--brief=7 --ignore tests/races/test_sanitized_engine.py))

part-host: $(VENV)/.torch
	@mkdir -p build
	@$(BIN)/cmake -S . -B build/host -G Ninja "-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja" \
	  -DMLLOSS_PYTHON=OFF -DMLLOSS_HOST_TESTS=ON >build/host.log || { cat build/host.log; exit 1; }
	$(BIN)/cmake --build build/host --target host_tests
	build/host/host_tests

# Against other people's packages, which nothing else needs. With torch named, none of them replaces it.
test-others: $(VENV)/.others
	$(BIN)/python -m pytest -n $(JOBS) tests/others --others

$(VENV)/.others: $(VENV)/.dev pyproject.toml
	@$(PIP) $(TORCH) "mlloss-cuda[others]"
	@touch $@

# Inside other people's training loops, with the examples that need them.
part-training: $(VENV)/.training
	$(BIN)/python -m pytest -n $(JOBS) tests/training --training

$(VENV)/.training: $(VENV)/.dev pyproject.toml
	@$(PIP) $(TORCH) "mlloss-cuda[training]"
	@touch $@

# The kernels' machine code against its budgets. All units take ten minutes on 2 cores, and are for changes of the kernels.
UNITS := $(if $(or $(FULL),$(UPDATE),$(ARGS)),,--units "bfloat16 sm_90")
check-machine-code: $(FULL_BUILD) $(VENV)/.disassembler
	@if $(HAS_CUDA); then $(BIN)/python -m tests.machine_code $(UNITS) $(if $(UPDATE),--update) $(ARGS); \
	else echo "skipped: the package is built without CUDA, since no nvcc was found"; fi

$(VENV)/.disassembler: Makefile
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(DISASSEMBLER)
	@touch $@

# An environment with torch and nothing else, not even numpy. $(1): its folder. $(2): torch.
define alone
	@rm -rf $(1)
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "$(2)"
endef

build/alone/.torch: Makefile
	$(call alone,build/alone,$(TORCH))
	@touch $@

# The wheel in such an environment. $(1): its folder.
define wheel_smoke
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.whl
	$(1)/bin/python -I tests/wheel/smoke.py
endef

# The wheel that users install, from the objects that are built; FULL=1 also with the oldest torch that it is for, and the
# newest: gigabytes, where these have CUDA. Then the source distribution: what is in it; it is installed as the README says,
# from a folder with a space in its name, as a package and editable, where torch is and nothing else.
packages: $(FULL_BUILD) build/alone/.torch
	@rm -rf dist "build/source distribution" build/lib.* build/bdist.*  # what an earlier tree left there would go in
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	$(BIN)/python tests/wheel/contents.py dist/*.whl \
	  $$($(HAS_CUDA) || echo --without-cuda)
	$(call wheel_smoke,build/alone)
ifdef FULL
	$(call alone,build/wheel,torch==2.11.*)
	$(call wheel_smoke,build/wheel)
	$(call alone,build/wheel,torch)
	$(call wheel_smoke,build/wheel)
endif
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" >build/sdist.log || { cat build/sdist.log; exit 1; }
	$(BIN)/python tests/wheel/contents.py dist/*.tar.gz
	@mkdir -p "build/source distribution"
	@cp -a build/alone "build/source distribution/env"
	@tar -xzf dist/*.tar.gz -C "build/source distribution"
	bash tests/wheel/install.sh "build/source distribution/env" "build/source distribution"/mlloss_cuda-*/

demo: build
	$(BIN)/python -m demo

# RESULTS=<file> keeps the figures: bench/results/cpu.json is what make report draws.
bench: build
	$(BIN)/python -m bench $(if $(FULL),--full) $(RESULTS:%=--json %)

# On a GPU, with what is there: nothing is installed. PART=first|tests|large|memcheck|sanitize|bench|profile,
# LIMIT=<seconds>, NO_BUILD=1 with libraries that are there, FULL=1, RESULTS=<folder>, COMMIT=<hash> for a copy of the
# tree without its history. DRY=1 walks through both commands of a short visit on the CPU.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))
gpu:
ifdef DRY
	$(GPU_PYTHON) -m bench.gpu --dry-run --visit right
	$(GPU_PYTHON) -m bench.gpu --dry-run --visit fast
else
	COMMIT=$(COMMIT) $(GPU_PYTHON) -m bench.gpu $(PART:%=--part %) $(if $(FULL),--full) \
	  $(if $(NO_BUILD),--no-build) $(LIMIT:%=--limit %) $(RESULTS:%=--results %)
endif

part-dry-run: $(VENV)/.dev
	@$(MAKE) gpu DRY=1

# The README's tables, docs/benchmarks.md, its pictures and the curves of docs/losses.md: the same bytes from run to run.
report: build
	$(BIN)/python -m bench.publish
	$(BIN)/python docs/draw_losses.py

# The documentation as pages: build/site/index.html. A warning is an error.
docs: $(VENV)/.docs
	rm -rf build/site
	$(BIN)/sphinx-build -W --keep-going -q -E -b html docs build/site

$(VENV)/.docs: $(VENV)/.built
	@$(PIP) "mlloss-cuda[docs]"
	@touch $@

CPP_FILES = $$(git ls-files --cached --others --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp')
lint: $(VENV)/.dev
ifdef FIX
	$(BIN)/python -m tests.signatures
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)
endif
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

clean:
	rm -rf build dist $(VENV) mlloss_cuda/*.so *.egg-info
