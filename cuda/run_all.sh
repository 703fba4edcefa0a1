#!/bin/bash
# cuda/run_all.sh OUT [tests]: everything that needs a GPU, in one command: builds for the card that is there, checks all
# kernels against float64, again under compute-sanitizer, and times them; about ten minutes. With "tests" the timings are
# left out. Needs nvcc, g++ and a python3 (or DWSCONV_PYTHON) with PyTorch, NumPy and ml_dtypes; no network, no Bazel, no
# TensorFlow. What it found lies in OUT, summary.md first; it fails where a check does.
set -uo pipefail
[[ $# -ge 1 ]] || { echo "usage: cuda/run_all.sh OUT [tests]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
what=${2:-all}
cd "$(dirname "$0")/.."

export DWSCONV_PYTHON=${DWSCONV_PYTHON:-python3}
if [[ -z ${DWSCONV_CUDA_ARCHS:-} ]]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [[ -n $capability ]] || { echo "error: nvidia-smi names no GPU" >&2; exit 1; }
  if [[ $capability == 90 ]]; then capability=90a; fi
  export DWSCONV_CUDA_ARCHS=$capability
fi
library=build/cuda/libdwsconv_cuda.so
program=(python_tests/cuda_gpu_program.py "$library")
export PYTHONPATH=$PWD/python_tests PYTHONUNBUFFERED=1
failed=0
# step NAME SECONDS COMMAND...: its output goes to OUT/NAME.log, its outcome to the summary.
step() {
  local name=$1 limit=$2 rc=0 begin=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
  ((rc == 0)) || failed=1
  echo "| $name | $([[ $rc == 0 ]] && echo passed || echo "FAILED ($rc)") | $((SECONDS - begin)) s |" >>"$out/summary.md"
  echo ">> $name: $rc, $((SECONDS - begin)) s"
  ((rc == 0)) || tail -20 "$out/$name.log"
}

{
  nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader
  echo
  echo "| step | outcome | time |"
  echo "| --- | --- | ---: |"
} >"$out/summary.md"
step build 300 tools/cuda.sh
((failed == 0)) || exit 1  # a library of before would be checked
cp build/cuda/report.md "$out/registers.md" 2>/dev/null
step checks 240 "$DWSCONV_PYTHON" "${program[@]}"
block=(python_tests/cuda_block_gpu_program.py "$library")
step block_checks 240 "$DWSCONV_PYTHON" "${block[@]}"
backward=(python_tests/cuda_backward_gpu_program.py "$library")
step backward_checks 240 "$DWSCONV_PYTHON" "${backward[@]}"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$DWSCONV_PYTHON" "${program[@]}" --small \
      --cases 30
    step "block_$tool" 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$DWSCONV_PYTHON" "${block[@]}" --small \
      --cases 30
    step "backward_$tool" 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$DWSCONV_PYTHON" "${backward[@]}" \
      --small --cases 30
  done
else
  echo "| compute-sanitizer | not installed | |" >>"$out/summary.md"
fi
if [[ $what == all ]]; then
  step benchmark 330 "$DWSCONV_PYTHON" cuda/bench/benchmark.py "$out" --library "$library"
  step block_benchmark 240 "$DWSCONV_PYTHON" cuda/bench/block.py "$out" --library "$library"
  step training 330 "$DWSCONV_PYTHON" cuda/bench/training.py "$out" --library "$library"
  step cifar 180 "$DWSCONV_PYTHON" cuda/bench/cifar.py "$out" --library "$library"
  if command -v ncu >/dev/null; then
    for layer in mobilenetv1_112x32-64_s1 mobilenetv1_56x128-128_s1 gpu-study_224x128-128; do
      step "dram_$layer" 60 ncu --clock-control none --metrics dram__bytes_read.sum,dram__bytes_write.sum \
        --kernel-name regex:Kernel --csv "$DWSCONV_PYTHON" cuda/bench/benchmark.py "$out" --library "$library" \
        --once "$layer"
    done
  else
    echo "| ncu | not installed | |" >>"$out/summary.md"
  fi
fi
cat "$out/summary.md"
exit $failed
