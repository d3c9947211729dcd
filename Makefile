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

# What `make test` and `make check` run, in this order; each part is a target of its own.
TEST_PARTS := test-host test-python
CHECK_PARTS := lint interpret ahead-of-time-share emulate races machine-code-share machines-share docs gpu-dry-run wheel sdist test-training

.NOTPARALLEL:
.PHONY: build test check test-full test-host test-python test-others test-training machines machines-share interpret interpret-full ahead-of-time \
  ahead-of-time-share emulate emulate-full emulate-sanitized emulate-sanitized-full races races-full sass machine-code-share wheel \
  wheel-check sdist demo bench bench-full gpu gpu-dry-run report pictures docs lint format clean

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

# These tests tell whether an install can be trusted; on a GPU they test the CUDA kernels too.
test: $(FULL_BUILD) $(VENV)/.dev
	@MAKE="$(MAKE)" $(BIN)/python -m tests.run test $(TEST_PARTS)

# All other checks that a change has to pass; some of them take a share of the tests, and their `-full` targets all.
check: $(FULL_BUILD) $(VENV)/.dev
	@MAKE="$(MAKE)" $(BIN)/python -m tests.run check $(CHECK_PARTS)

# With all that test and check leave out because it takes long.
test-full: test check test-others ahead-of-time interpret-full emulate-full emulate-sanitized-full races-full machines sass

test-python: $(FULL_BUILD) $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# The same tests as on other processors and with other numbers of threads; the share is what takes few minutes.
machines: $(FULL_BUILD) $(VENV)/.dev
	$(BIN)/python -m tests.machines

machines-share: $(FULL_BUILD) $(VENV)/.dev
	$(BIN)/python -m tests.machines --share

# The Triton kernels on the CPU, by Triton's interpreter, and compiled for GPUs that are not there.
interpret: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) tests --interpreted --brief=96

interpret-full: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) tests --interpreted

# By the oldest Triton that is served, which is torch 2.11's, every kernel for sm_90; by the newest, TARGETS.
OLDEST_TRITON := 3.6.0
ahead-of-time: $(VENV)/.dev build/triton-$(OLDEST_TRITON)/.there
	$(BIN)/python -m tests.ahead_of_time --jobs $(JOBS) --also build/triton-$(OLDEST_TRITON) $(TARGETS)

ahead-of-time-share:
	@$(MAKE) ahead-of-time TARGETS=sm_90

# This Triton has a folder of its own, beside the one that the torch here takes.
build/triton-$(OLDEST_TRITON)/.there: $(VENV)/.torch
	@$(PIP) --no-deps --target $(@D) --upgrade triton==$(OLDEST_TRITON)
	@touch $@

# The CUDA kernels on the CPU, in builds of their own, which need the toolkit's headers. $(1): what is built. $(2): what runs.
EMULATED := build/emulated/tests/emulator
define emulated
	@if $(HAS_CUDA); then set -ex; mkdir -p build; \
	  $(BIN)/cmake -S . -B build/emulated -G Ninja "-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja" -DMLLOSS_PYTHON=OFF \
	    -DMLLOSS_EMULATED=ON $$($(BIN)/python setup.py --print-cmake-paths) >build/emulated.log || { cat build/emulated.log; exit 1; }; \
	  $(BIN)/cmake --build build/emulated --target $(1); \
	  $(2); \
	else echo "skipped: the package is built without CUDA, since no nvcc was found"; fi
endef

# The same source, the same tests: a share of them, or all.
EMULATED_TESTS := $(BIN)/python -m pytest -n $(JOBS) tests --emulated $(EMULATED)/emulated.so
emulate: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,emulated,$(EMULATED_TESTS) --brief=12)

emulate-full: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,emulated,$(EMULATED_TESTS))

# Once more under AddressSanitizer and UndefinedBehaviorSanitizer, whose build takes nine minutes: not part of make check.
# They are loaded before Python, and the C++ library too, or they miss its exceptions; they write past pytest's capture, for
# they end the process.
SANITIZED = ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  $(BIN)/python -m pytest -n $(JOBS) tests --emulated $(EMULATED)/emulated_sanitized.so --capture=sys
emulate-sanitized: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,emulated_sanitized,$(SANITIZED) --brief=14; \
	  $(BIN)/python -m pytest -n $(JOBS) tests/races/test_sanitized_engine.py --races $(EMULATED))

emulate-sanitized-full: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,emulated_sanitized,$(SANITIZED))

# The detectors' own test, the kernels under the race detector, and whether tests notice what is broken on purpose.
RACES := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/races --races $(EMULATED)
races: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,races,$(RACES) --brief=7 --ignore tests/races/test_sanitized_engine.py)

races-full: $(FULL_BUILD) $(VENV)/.dev
	$(call emulated,races emulated_sanitized,$(RACES))

test-host: $(VENV)/.torch
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
test-training: $(VENV)/.training
	$(BIN)/python -m pytest -n $(JOBS) tests/training --training

$(VENV)/.training: $(VENV)/.dev pyproject.toml
	@$(PIP) $(TORCH) "mlloss-cuda[training]"
	@touch $@

# The kernels' machine code against its budgets; needs nvcc, and neither torch nor a GPU.
sass: $(VENV)/.disassembler
	$(BIN)/python -m tests.machine_code $(if $(UPDATE),--update) $(SASS_ARGS)

# All of it takes a quarter of an hour, and is for changes of the kernels.
machine-code-share: $(FULL_BUILD)
	@if $(HAS_CUDA); then $(MAKE) sass SASS_ARGS='--units "bfloat16 sm_90"'; \
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

# The wheel that users install, from the objects that are built.
wheel: $(FULL_BUILD) build/alone/.torch
	@rm -rf dist/*.whl build/lib.* build/bdist.*  # what an earlier tree left there would go in
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	$(BIN)/python tests/wheel/contents.py dist/*.whl \
	  $$($(HAS_CUDA) || echo --without-cuda)
	$(call wheel_smoke,build/alone)

# Before a release: the same wheel with the oldest torch that it is for, and the newest. Gigabytes, where these have CUDA.
wheel-check: wheel
	$(call alone,build/wheel,torch==2.11.*)
	$(call wheel_smoke,build/wheel)
	$(call alone,build/wheel,torch)
	$(call wheel_smoke,build/wheel)

# The source distribution: what is in it; then it is installed as the README says, from a folder with a space in its name, as a
# package and editable, where torch is and nothing else.
sdist: $(VENV)/.torch build/alone/.torch
	@rm -rf dist/*.tar.gz "build/source distribution"
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
	$(BIN)/python -m bench $(RESULTS:%=--json %)

bench-full: build
	$(BIN)/python -m bench --full $(RESULTS:%=--json %)

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

# It walks through all of that on the CPU.
gpu-dry-run: $(VENV)/.dev
	@$(MAKE) gpu DRY=1

# The README's tables, docs/benchmarks.md and its pictures from bench/results: the same bytes from run to run.
report:
	$(GPU_PYTHON) -m bench.publish

# The curves of docs/losses.md: the same bytes from run to run.
pictures: build
	$(BIN)/python docs/draw_losses.py

# The documentation as pages: build/site/index.html. A warning is an error.
docs: $(VENV)/.docs
	rm -rf build/site
	$(BIN)/sphinx-build -W --keep-going -q -E -b html docs build/site

$(VENV)/.docs: $(VENV)/.built
	@$(PIP) "mlloss-cuda[docs]"
	@touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files --cached --others --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp')

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files --cached --others --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp')

clean:
	rm -rf build dist $(VENV) mlloss_cuda/*.so *.egg-info
