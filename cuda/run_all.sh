#!/bin/bash
# cuda/run_all.sh OUT [PART...]: everything that needs a GPU, in one command. The parts, each of less than ten minutes:
#
#   tests      what the kernels take for granted of the card's matrix instructions; all kernels against float64
#   bench      layers, the study's microbenchmark and blocks beside PyTorch's; bytes of DRAM of three layers by ncu
#   training   forward and backward beside PyTorch's, a CIFAR-10 network
#   sanitize   small cases of the tests under compute-sanitizer's memcheck and racecheck
#
# All of them, in this order, where none is named. First it builds for the card that is there. Needs nvcc, g++ and a python3
# (or DWSCONV_PYTHON) with PyTorch, NumPy and ml_dtypes; no network, no Bazel, no TensorFlow. What it found lies in OUT,
# summary.md first, which is written as it goes and added to by a later call; it fails where a step does, after all others.
set -uo pipefail
[[ $# -ge 1 ]] || { echo "usage: cuda/run_all.sh OUT [tests] [bench] [training] [sanitize]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
parts=" ${*:-tests bench training sanitize} "
for part in $parts; do
  case $part in
    tests | bench | training | sanitize) ;;
    *) echo "error: PART must be tests, bench, training or sanitize, but is $part" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."

export DWSCONV_PYTHON=${DWSCONV_PYTHON:-python3}
if [[ -z ${DWSCONV_CUDA_ARCHS:-} ]]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [[ -n $capability ]] || { echo "error: nvidia-smi names no GPU" >&2; exit 1; }
  if [[ $capability == 90 ]]; then capability=90a; fi
  export DWSCONV_CUDA_ARCHS=$capability
fi
library=build/cuda/libdwsconv_cuda.so
export PYTHONPATH=$PWD/python_tests/cuda:$PWD/python_tests/support:$PWD/examples PYTHONUNBUFFERED=1
failed=0
note() { echo "| $1 | $2 | ${3:-} |" >>"$out/summary.md"; }
# step NAME SECONDS COMMAND...: its output goes to OUT/NAME.log, its outcome to the summary.
step() {
  local name=$1 limit=$2 rc=0 begin=$SECONDS
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
  ((rc == 0)) || failed=1
  note "$name" "$(case $rc in 0) echo passed ;; 124 | 137) echo "FAILED: longer than $limit s" ;; *) echo "FAILED ($rc)" ;; esac)" \
    "$((SECONDS - begin)) s"
  echo ">> $name: $rc, $((SECONDS - begin)) s"
  ((rc == 0)) || tail -20 "$out/$name.log"
}
# program NAME SECONDS FILE ARGUMENTS...: a step of Python, where there is such a file.
program() {
  if [[ -e $3 ]]; then
    step "$1" "$2" "$DWSCONV_PYTHON" "${@:3}"
  else
    note "$1" "there is no $3"
  fi
}
with() { [[ $parts == *" $1 "* ]]; }
checks=(python_tests/cuda/cuda_gpu_program.py python_tests/cuda/cuda_block_gpu_program.py python_tests/cuda/cuda_backward_gpu_program.py)
# By the nvcc that tools/cuda.sh used.
layouts() {
  local before=()
  if [[ ${DWSCONV_CUDA_ARCHS%%[a-z]*} -lt 80 ]]; then before=(-DDWSCONV_BEFORE_80); fi
  "$(cat build/cuda/nvcc)" -std=c++17 -O2 -I. "${before[@]}" \
    -gencode "arch=compute_$DWSCONV_CUDA_ARCHS,code=sm_$DWSCONV_CUDA_ARCHS" -o build/cuda/layouts cuda/testing/layouts.cu &&
    build/cuda/layouts
}

if [[ ! -e $out/summary.md ]]; then
  {
    nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader
    echo
    echo "| step | outcome | time |"
    echo "| --- | --- | ---: |"
  } >"$out/summary.md"
fi
step build 280 tools/cuda.sh
# A library of before must not be checked; one with a spilled register may.
if ((failed)) && ! grep -q "registers of fast kernels are spilled" "$out/build.log"; then exit 1; fi
cp build/cuda/report.md "$out/registers.md" 2>/dev/null
if with tests; then
  step layouts 60 bash -c "$(declare -f layouts); layouts"
  for check in "${checks[@]}"; do
    name=$(basename "$check" _gpu_program.py)
    program "${name}_checks" 110 "$check" "$library"
  done
fi
if with bench; then
  program benchmark 330 cuda/bench/benchmark.py "$out" --library "$library"
  program block_benchmark 140 cuda/bench/block.py "$out" --library "$library"
  if command -v ncu >/dev/null; then
    for layer in mobilenetv1_112x32-64_s1 mobilenetv1_56x128-128_s1 gpu-study_224x128-128; do
      step "dram_$layer" 40 ncu --clock-control none --metrics dram__bytes_read.sum,dram__bytes_write.sum \
        --kernel-name regex:Kernel --csv "$DWSCONV_PYTHON" cuda/bench/benchmark.py "$out" --library "$library" \
        --once "$layer"
    done
  else
    note ncu "not installed"
  fi
fi
if with training; then
  program training 330 cuda/bench/layer_training.py "$out" --library "$library"
  program cifar 180 cuda/bench/cifar.py "$out" --library "$library"
fi
if with sanitize; then
  if command -v compute-sanitizer >/dev/null; then
    for check in "${checks[@]}"; do
      for tool in memcheck racecheck; do
        step "$(basename "$check" _gpu_program.py)_$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 \
          "$DWSCONV_PYTHON" "$check" "$library" --small --cases 30
      done
    done
  else
    note compute-sanitizer "not installed"
  fi
fi
cat "$out/summary.md"
exit $failed
