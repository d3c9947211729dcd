# Everything is a target: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
TOOLS := cmake==4.4.4 ninja==1.13.2 pybind11==3.1.0 "setuptools>=77" wheel
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)

# Kernels for the GPU that is here, or for one architecture if there is none: each takes minutes.
CAPABILITY := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+\.[0-9]+' | head -n 1 | tr -d .)
export CUDAARCHS ?= $(or $(CAPABILITY),90)-real

DISASSEMBLER := nvidia-cuda-nvdisasm==13.5.37

.PHONY: build test test-full test-host test-others test-training interpret interpret-full ahead-of-time emulate emulate-full \
  emulate-sanitized emulate-sanitized-full races races-full sass wheel wheel-check demo bench bench-full gpu report pictures docs \
  lint format clean

build: $(VENV)/.built

$(VENV)/.torch: Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) numpy
	$(BIN)/pip install --quiet --disable-pip-version-check $(TOOLS)
	touch $@

# Editable, with the torch that is there: an isolated build would draw gigabytes of another one.
$(VENV)/.built: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev,demo]"
	touch $@

test: build test-host
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	$(MAKE) wheel
	$(MAKE) interpret
	$(MAKE) ahead-of-time TARGETS="sm_80 gfx942"
	@if $(BIN)/python -m mlloss_cuda info | grep -q nvcc; then $(MAKE) emulate && $(MAKE) races; \
	else echo "built without CUDA: its kernels are not tested (make emulate needs the toolkit's headers)"; fi

# With all that make test leaves out because it takes long.
test-full: test test-others test-training ahead-of-time interpret-full emulate-full emulate-sanitized-full races-full

# The Triton kernels on the CPU, by Triton's interpreter, and compiled for GPUs that are not there.
interpret: build
	$(BIN)/python -m pytest -n 2 tests --interpreted --brief=14

interpret-full: build
	$(BIN)/python -m pytest -n 2 tests --interpreted

ahead-of-time: build
	TRITON_CACHE_DIR=build/triton $(BIN)/python -m tests.ahead_of_time $(TARGETS)

# The CUDA kernels on the CPU, in builds of their own. $(1): what to build.
EMULATED := build/emulated/tests/emulator
define emulator
	mkdir -p build
	$(BIN)/cmake -S . -B build/emulated -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DMLLOSS_PYTHON=OFF \
	  -DMLLOSS_EMULATED=ON $$($(BIN)/python setup.py --print-cmake-paths) >build/emulated.log || { cat build/emulated.log; exit 1; }
	$(BIN)/cmake --build build/emulated --target $(1)
endef

# The same source, the same tests: a share of them, or all.
emulate: build
	$(call emulator,emulated)
	$(BIN)/python -m pytest -n 2 tests --emulated $(EMULATED)/emulated.so --brief=6

emulate-full: build
	$(call emulator,emulated)
	$(BIN)/python -m pytest -n 2 tests --emulated $(EMULATED)/emulated.so

# Once more under AddressSanitizer and UndefinedBehaviorSanitizer, whose build takes nine minutes: not part of make test.
# They are loaded before Python, and the C++
# library too, or they miss its exceptions; they write past pytest's capture, for they end the process.
SANITIZED = ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  $(BIN)/python -m pytest -n 2 tests --emulated $(EMULATED)/emulated_sanitized.so --capture=sys
emulate-sanitized: build
	$(call emulator,emulated_sanitized)
	$(SANITIZED) --brief=14
	$(BIN)/python -m pytest -n 2 tests/races/test_sanitized_engine.py --races $(EMULATED)

emulate-sanitized-full: build
	$(call emulator,emulated_sanitized)
	$(SANITIZED)

# The detectors' own test, the kernels under the race detector, and whether tests notice what is broken on purpose.
races: build
	$(call emulator,races)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/races --races $(EMULATED) --brief=7 \
	  --ignore tests/races/test_sanitized_engine.py

races-full: build
	$(call emulator,races emulated_sanitized)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/races --races $(EMULATED)

test-host: build
	mkdir -p build
	$(BIN)/cmake -S . -B build/host -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DMLLOSS_PYTHON=OFF -DMLLOSS_HOST_TESTS=ON >build/host.log || { cat build/host.log; exit 1; }
	$(BIN)/cmake --build build/host --target host_tests
	build/host/host_tests

# Against other people's packages, which nothing else needs. With torch named, none of them replaces it.
test-others: $(VENV)/.others
	$(BIN)/python -m pytest -n 2 tests/others --others

$(VENV)/.others: $(VENV)/.built pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation $(TORCH) -e ".[dev,demo,others]"
	touch $@

# Inside other people's training loops, with the examples that need them.
test-training: $(VENV)/.training
	$(BIN)/python -m pytest -n 2 tests/training --training

$(VENV)/.training: $(VENV)/.built pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation $(TORCH) -e ".[dev,demo,training]"
	touch $@

# The kernels' machine code against its budgets; needs nvcc, and neither torch nor a GPU.
sass: $(VENV)/.disassembler
	$(BIN)/python -m tests.machine_code $(if $(UPDATE),--update) $(SASS_ARGS)

$(VENV)/.disassembler: Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(DISASSEMBLER)
	touch $@

# What users install, from the objects that are built; then where torch is and nothing else, not even numpy. $(1): torch.
define wheel_alone
	$(BIN)/python -m venv --clear build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check --no-compile "$(1)" dist/*.whl
	build/wheel/bin/python -I tests/wheel/smoke.py
endef

wheel: build
	rm -rf dist build/lib.* build/bdist.*  # what an earlier tree left there would go in
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	$(BIN)/python tests/wheel/contents.py dist/*.whl \
	  $$($(BIN)/python -m mlloss_cuda info | grep -q nvcc || echo --without-cuda)
	$(call wheel_alone,$(TORCH))

# Before a release: the same wheel with the oldest torch that it is for, and the newest. Gigabytes, where these have CUDA.
wheel-check: wheel
	$(call wheel_alone,torch==2.11.*)
	$(call wheel_alone,torch)

demo: build
	$(BIN)/python -m demo

# RESULTS=<file> keeps the figures: bench/results/cpu.json is what make report draws.
bench: build
	$(BIN)/python -m bench $(RESULTS:%=--json %)

bench-full: build
	$(BIN)/python -m bench --full $(RESULTS:%=--json %)

# On a GPU, with what is there: nothing is installed. PART=first|tests|sanitize|bench, LIMIT=<seconds>, NO_BUILD=1 with
# libraries that are there, DRY=1 on the CPU, FULL=1,
# RESULTS=<folder>, COMMIT=<hash> for a copy of the tree without its history.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))
gpu:
	COMMIT=$(COMMIT) $(GPU_PYTHON) -m bench.gpu $(PART:%=--part %) $(if $(DRY),--dry-run) $(if $(FULL),--full) \
	  $(if $(NO_BUILD),--no-build) $(LIMIT:%=--limit %) $(RESULTS:%=--results %)

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

# What is installed has told of this extra: nothing is built anew.
$(VENV)/.docs: $(VENV)/.built
	$(BIN)/pip install --quiet --disable-pip-version-check "mlloss-cuda[docs]"
	touch $@

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files --cached --others --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp')

format: build
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files --cached --others --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp')

clean:
	rm -rf build dist $(VENV) mlloss_cuda/*.so *.egg-info
