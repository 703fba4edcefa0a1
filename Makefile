# Each target does what it needs first, on a bare Debian machine as root: `make help` lists them.

PYTHON ?= python3
export PYTHON
VENV := .venv/bin
SOURCES := cuda/bench docs examples python_tests tf_dwsconv tools setup.py
CPP = $(shell find cc cuda -name "*.cc" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh")

.DEFAULT_GOAL := help
.PHONY: help venv build test test-machine demo lint format wheel release docs bench cuda test-gpu bench-bf16 asan avx512-model clean distclean

help:
	@echo "make venv    .venv with TensorFlow and the tools of the build and tests"
	@echo "make build   the libraries (Bazel), copied into tf_dwsconv/"
	@echo "make test    all tests"
	@echo "make test-machine  a part of them on a machine that is not there; MACHINE=\"l2=2M,cores=16\" says which"
	@echo "make demo    the face detector, with stock layers and with ours"
	@echo "make bench   the benchmarks of examples/, short: output/report/report.html"
	@echo "make lint    ruff and clang-format; make format applies them"
	@echo "make wheel   dist/*.whl for this platform and TensorFlow"
	@echo "make release dist/ with an sdist and wheels for several TensorFlows and Pythons, each tried: an hour or more"
	@echo "make docs    the documentation: build/docs/html/index.html"
	@echo "make asan    the tests of ops, networks, NumPy module and C interface under AddressSanitizer"
	@echo "make avx512-model  the tests of the kernels' AVX-512 code on a CPU that lacks it"
	@echo "make bench-bf16  bfloat16 by each way of this CPU, and the tiles' bits against their model: build/bench_bf16.md"
	@echo "make cuda    the libraries with GPU kernels, by nvcc; make build takes them out again"
	@echo "make test-gpu  the kernels' tests on a GPU: needs nvcc and PyTorch, neither Bazel nor TensorFlow"
	@echo "make clean   removes what was built; make distclean also .venv"

venv: .venv/ready

.venv/ready: pyproject.toml
	@tools/venv.sh

build: venv
	@tools/build.sh

# The C++ unit tests, then pytest: two processes, each file in one of them. ARGS="-n 0 ..." runs all in this one, as a debugger wants it.
test: build
	@tools/build.sh test
	$(VENV)/pytest -n 2 --dist loadfile $(ARGS)

test-machine: build
	@$(VENV)/python tools/another_machine.py "$(MACHINE)"

demo: build
	$(VENV)/python examples/demo/detect_faces.py $(ARGS)

bench: build
	@$(VENV)/python examples/benchmarks/report.py $(ARGS)

lint: venv
	$(VENV)/ruff check $(wildcard $(SOURCES))
	$(VENV)/ruff format --check $(wildcard $(SOURCES))
	$(VENV)/clang-format --dry-run -Werror $(CPP)

format: venv
	$(VENV)/ruff check --fix $(wildcard $(SOURCES))
	$(VENV)/ruff format $(wildcard $(SOURCES))
	$(VENV)/clang-format -i $(CPP)

bench-bf16: build
	$(VENV)/python tools/bench_bf16.py $(ARGS)

wheel: build
	@tools/wheel.sh

release: venv
	@tools/release.sh "$(TENSORFLOWS)" "$(PYTHONS)"

docs: build
	@$(VENV)/python tools/docs.py

asan: venv
	@tools/asan.sh

avx512-model: venv
	@tools/avx512_model.sh

cuda: venv
	@tools/cuda.sh
	@tools/build.sh cuda

test-gpu:
	@cuda/run_all.sh $(or $(OUT),build/gpu) first checks

clean:
	@if [ -e .bazel ]; then $${BAZEL:-bazel} clean; fi
	rm -rf .bazel build dist tf_dwsconv.egg-info tf_dwsconv/*.so tf_dwsconv/_build_info.json

distclean: clean
	rm -rf .venv .venv.lock
