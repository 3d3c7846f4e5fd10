# `make demo` and `make test` set up all they need below .venv, .venv-pure and build/, and nothing elsewhere.

PYTHON ?= python3
# make's built-in default (g++) is not a choice; CMake finds the compiler unless the user names one.
ifeq ($(origin CXX),default)
  CXX :=
endif
ifneq ($(CXX),)
  export CXX
endif
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Quotes: a checkout may lie in a folder with spaces.
VENV := .venv
PY := $(VENV)/bin/python
PURE_PY := $(VENV)-pure/bin/python
BENCH_PY := $(VENV)-bench/bin/python
# More for pip when it installs the libraries to compare with, such as where PyTorch's small CPU builds are.
BENCH_PIP ?=
PIP_INSTALL := -m pip install --quiet

# Tools whose opinions change between releases are pinned.
CHECKERS := ruff==0.17.6 mypy==2.4.1 clang-format==19.1.7
BUILD_TOOLS := "numpy>=1.24" "scikit-build-core>=0.11" "pybind11>=2.12" "cmake>=3.21" ninja
TEST_TOOLS := "pytest>=8" "hypothesis>=6" "safetensors>=0.4" "cython>=3" "pytest-benchmark>=5" scipy scikit-learn matplotlib

PACKAGE_SOURCES := $(shell find src -type f ! -name '*.pyc')
NATIVE_SOURCES := CMakeLists.txt $(shell find csrc cmake -type f)
CPP_FILES := $(shell find csrc tests -name '*.cpp' -o -name '*.hpp')
MODEL := digits.fp.safetensors

# scikit-build-core reads these: one build folder, so that only what changed is compiled again.
BUILD := SKBUILD_BUILD_DIR=build/native SKBUILD_CMAKE_DEFINE="FASTPERCEPTRON_WERROR=ON;FASTPERCEPTRON_AMX_SOFTWARE=ON"
INSTALL := $(PIP_INSTALL) --no-deps --no-build-isolation --force-reinstall

.PHONY: help demo test check native-test pure-test docs-test bench bench-compare bench-floor bench-suites wheel pure-wheel kernel-test neon avx512-emulated asan tsan fuzz kill soak clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(VENV)/.installed  ## train a network on handwritten digits, test it, save it
	$(VENV)/bin/fastperceptron train digits --backend native --hidden 128,64 --dropout 0.2 --epochs 40 --save $(MODEL)

test: check kernel-test native-test pure-test  ## linters, types, warnings as errors, tests on both backends

check: $(VENV)/.test-tools  ## linters, formatters, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)
	$(PY) -m mypy --python-version $$($(PY) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

native-test: $(VENV)/.installed $(VENV)/.test-tools  ## the tests and, untimed, the benchmark suites, with the native engine
	$(PY) -c 'import fastperceptron._core as c; print("extension:", c.__file__)'
	$(PY) -m pytest
	$(PY) -m pytest benchmarks --benchmark-disable -m 'not timed'

pure-test: $(VENV)-pure/.installed  ## the tests of the wheel without the extension
	$(PURE_PY) -c 'import importlib.util as u, sys; sys.exit("the pure wheel has an extension" if u.find_spec("fastperceptron._core") else 0)'
	FASTPERCEPTRON_PURE=1 $(PURE_PY) -m pytest -m 'not slow'

docs-test: $(VENV)/.installed $(VENV)/.test-tools  ## the examples in docstrings and documents
	$(PY) -m pytest tests/test_docs.py tests/test_docstrings.py

bench: $(VENV)-bench/.installed  ## all that was wanted beside what is reached and what others reach, in six minutes
	$(BENCH_PY) benchmarks/compare.py --quick

bench-compare: $(VENV)-bench/.installed  ## the same with more rounds and more contestants, in half an hour
	$(BENCH_PY) benchmarks/compare.py

bench-suites: $(VENV)/.installed $(VENV)/.test-tools  ## kernels, steps, prediction, fit, memory and import one by one
	$(PY) -m pytest benchmarks --benchmark-max-time=0.5

bench-floor: $(VENV)/.installed $(VENV)/.test-tools  ## a training step against hand-written NumPy
	$(PY) benchmarks/floor.py

wheel: $(VENV)/.build-tools  ## dist/: a wheel for this machine's platform
	$(PY) -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

pure-wheel: $(VENV)/.build-tools  ## dist/: a wheel without the extension, for any platform
	FASTPERCEPTRON_NATIVE=OFF $(PY) -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove all that make made
	rm -rf $(VENV) $(VENV)-pure $(VENV)-bench build dist $(MODEL)

# -- set-up --------------------------------------------------------------------------------------------------------

$(VENV)/.venv:
	sh .ci/check-setup
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.build-tools: $(VENV)/.venv Makefile
	$(PY) $(PIP_INSTALL) $(BUILD_TOOLS)
	touch $@

$(VENV)/.test-tools: $(VENV)/.build-tools
	$(PY) $(PIP_INSTALL) $(CHECKERS) $(TEST_TOOLS)
	touch $@

$(VENV)/.installed: $(VENV)/.build-tools pyproject.toml README.md LICENSE $(PACKAGE_SOURCES) $(NATIVE_SOURCES)
	@echo "compiling the extension: some minutes the first time"
	$(BUILD) PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) $(INSTALL) .
	touch $@

$(VENV)-pure/.installed: $(VENV)/.build-tools pyproject.toml README.md LICENSE $(PACKAGE_SOURCES)
	rm -rf build/pure
	FASTPERCEPTRON_NATIVE=OFF $(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/pure .
	test -x $(PURE_PY) || $(PYTHON) -m venv $(VENV)-pure
	$(PURE_PY) $(PIP_INSTALL) "numpy>=1.24" "pytest>=8" "hypothesis>=6"
	$(PURE_PY) $(PIP_INSTALL) --no-deps --force-reinstall build/pure/*-none-any.whl
	touch $@

$(VENV)-bench/.installed: $(VENV)/.build-tools pyproject.toml README.md LICENSE $(PACKAGE_SOURCES) $(NATIVE_SOURCES)
	rm -rf build/bench-wheel
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/bench-wheel .
	test -x $(BENCH_PY) || $(PYTHON) -m venv $(VENV)-bench
	$(BENCH_PY) $(PIP_INSTALL) --no-deps --force-reinstall build/bench-wheel/*.whl
	$(BENCH_PY) $(PIP_INSTALL) $(BENCH_PIP) "fastperceptron[compare]"
	touch $@

# -- sanitizers, other processors, endurance -----------------------------------------------------------------------

NEON_CXX ?= aarch64-linux-gnu-g++
QEMU ?= qemu-aarch64
NEON_ROOT ?= /usr/aarch64-linux-gnu
KERNEL_TEST := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S tests/native -G Ninja

kernel-test: $(VENV)/.build-tools  ## the kernels' tests without Python, for every instruction set of this machine
	$(KERNEL_TEST) -B build/kernel-test
	$(VENV)/bin/cmake --build build/kernel-test
	build/kernel-test/kernel_test | tee build/kernel-test/output
	grep -q ' 0 failures$$' build/kernel-test/output

neon: kernel-test  ## the same, cross-compiled for AArch64 and run under qemu-user; results must be the same bits
	@command -v $(NEON_CXX) >/dev/null && command -v $(QEMU) >/dev/null || { \
	  echo 'missing: $(NEON_CXX) or $(QEMU). Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user' >&2; exit 1; }
	env -u CXX $(KERNEL_TEST) -B build/neon -DCMAKE_TOOLCHAIN_FILE="$(CURDIR)/cmake/toolchain-aarch64.cmake" \
	  -DCMAKE_CXX_COMPILER=$(NEON_CXX)
	$(VENV)/bin/cmake --build build/neon
	$(QEMU) -L $(NEON_ROOT) build/neon/kernel_test | tee build/neon/output
	grep -q ' 0 failures$$' build/neon/output
	@for isa in avx2 avx512; do \
	  digest=$$(sed -n "s/^digest $$isa //p" build/kernel-test/output); \
	  test -z "$$digest" || grep -q "^digest neon $$digest$$" build/neon/output || { \
	    echo "neon's results are not those of $$isa" >&2; exit 1; }; \
	done

avx512-emulated: $(VENV)/.build-tools  ## the AVX-512 kernels on other processors; results must be the same bits as AVX2's
	@echo '#include <simde/x86/avx512.h>' | $(or $(CXX),c++) -x c++ -E - >/dev/null 2>&1 || { \
	  echo 'missing: SIMDe. Debian, Ubuntu: apt-get install libsimde-dev' >&2; exit 1; }
	$(KERNEL_TEST) -B build/avx512-emulated -DEMULATE_AVX512=ON
	$(VENV)/bin/cmake --build build/avx512-emulated
	build/avx512-emulated/kernel_test | tee build/avx512-emulated/output
	grep -q '^digest avx512 ' build/avx512-emulated/output && grep -q ' 0 failures$$' build/avx512-emulated/output

# A sanitizer's runtime has to be in the process before Python is. It does not see how NumPy's BLAS waits for threads.
SANITIZER_CXX := $(if $(CXX),$(CXX),g++)
SANITIZED_TESTS ?= -m 'not slow' -p no:cacheprovider
comma := ,
define sanitized
	rm -rf build/$(1)-site
	SKBUILD_BUILD_DIR=build/$(1) SKBUILD_CMAKE_BUILD_TYPE=Debug SKBUILD_INSTALL_STRIP=false \
	  SKBUILD_CMAKE_DEFINE="FASTPERCEPTRON_SANITIZE=$(2);FASTPERCEPTRON_AMX_SOFTWARE=ON" PATH="$(CURDIR)/$(VENV)/bin:$$PATH" \
	  CXX=$(SANITIZER_CXX) $(PY) $(INSTALL) --target build/$(1)-site .
	LD_PRELOAD="$$($(SANITIZER_CXX) -print-file-name=$(3)) $$($(SANITIZER_CXX) -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:die_after_fork=0:suppressions=$(CURDIR)/tests/tsan.supp" \
	  OPENBLAS_NUM_THREADS=1 \
	  PYTHONPATH="$(CURDIR)/build/$(1)-site" $(PY) -m pytest $(SANITIZED_TESTS)
endef

asan: $(VENV)/.test-tools  ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer (Linux, GCC)
	$(call sanitized,asan,address$(comma)undefined,libasan.so)

tsan: $(VENV)/.test-tools  ## the tests under ThreadSanitizer (Linux, GCC)
	$(call sanitized,tsan,thread,libtsan.so)

FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.installed  ## damaged model and CSV files for FUZZ_SECONDS (60)
	$(PY) tests/fuzz_files.py --seconds $(FUZZ_SECONDS)

KILL_SECONDS ?= 60
kill: $(VENV)/.installed  ## SIGKILL at random while models are saved, for KILL_SECONDS (60)
	$(PY) tests/kill_saving.py --seconds $(KILL_SECONDS)

soak: $(VENV)/.installed  ## memory stays flat over many steps, models and errors
	$(PY) tests/soak_memory.py
