#!/bin/bash
# cuda/run_all.sh OUT [PART...] [OPTION...]: everything that needs a GPU. A card may be at hand for half an hour only, so
# it comes in four runs of less than ten minutes, each of use without the next ones:
#
#   first    which card this is, what it takes for granted; every family of kernels in every type, a process each; the
#            limits by which times are judged; memcheck of what failed
#   checks   all kernels against float64, printed as they go
#   times    layers by several libraries in turn (--with), layers beside PyTorch's, a sweep of tiles that writes the
#            planner's rates, what ncu says of four kernels
#   rest     training, whole blocks, races by compute-sanitizer
#
# Options:
#   --no-build        no compiler is called: the library lies there already
#   --library FILE    which library; build/cuda/libdwsconv_cuda.so by default
#   --with FILE       another library that `times` compares it with (tools/cuda_ab.sh makes them); may come again
#   --host            the library is the CPU shim's: only what runs without a card, to try this script
#   --only WORD       families of kernels whose name has this
#
# A step that fails is a line of OUT/summary.md, and the next one begins: cuda/README.md says how to read it. Needs a
# python3 (or DWSCONV_PYTHON) with NumPy and ml_dtypes, and PyTorch for all but the first families; to build, nvcc and g++;
# no network, no Bazel, no TensorFlow. Exits with 1 where a step failed.
set -uo pipefail
usage() { echo "usage: cuda/run_all.sh OUT [first] [checks] [times] [rest] [--no-build] [--library FILE] [--with FILE]..." >&2; exit 2; }
[[ $# -ge 1 && $1 != -* ]] || usage
mkdir -p "$1" || exit 1
out=$(cd "$1" && pwd)
shift
parts=" " build=1 library=build/cuda/libdwsconv_cuda.so host=() only=() others=()
here=$PWD
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }
while (($# > 0)); do
  case $1 in
    first | checks | times | rest) parts+="$1 " ;;
    --no-build) build=0 ;;
    --host) host=(--host) ;;
    --library | --with | --only)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      case $1 in
        --library) library=$(absolute "$2") ;;
        --with) others+=("$(absolute "$2")") ;;
        --only) only=(--only "$2") ;;
      esac
      shift
      ;;
    *) echo "error: PART must be first, checks, times or rest, but is $1" >&2; usage ;;
  esac
  shift
done
[[ $parts != " " ]] || parts=" first checks times rest "
cd "$(dirname "$0")/.."

export DWSCONV_PYTHON=${DWSCONV_PYTHON:-python3} DWSCONV_CUDA_STRICT=0
export PYTHONPATH=$PWD/python_tests/cuda:$PWD/python_tests/support:$PWD/examples PYTHONUNBUFFERED=1
python=$DWSCONV_PYTHON
failed=0
note() { echo "| $1 | $2 | ${3:-} |" >>"$out/summary.md"; }
# step NAME SECONDS COMMAND...: its output goes to OUT/NAME.log, its outcome to the summary, and to the screen.
step() {
  local name=$1 limit=$2 rc=0 begin=$SECONDS said
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
  ((rc == 0)) || failed=1
  case $rc in
    0) said=passed ;;
    124 | 137) said="FAILED: longer than $limit s" ;;
    *) said="FAILED ($rc): $(tail -1 "$out/$name.log" | cut -c1-200 | tr '|' '/')" ;;
  esac
  note "$name" "$said" "$((SECONDS - begin)) s"
  echo ">> $name: $said, $((SECONDS - begin)) s"
  return "$rc"
}
with() { [[ $parts == *" $1 "* ]]; }
on_card() { ((${#host[@]} == 0)); }

if [[ ! -e $out/summary.md ]]; then
  {
    nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.max.sm,clocks.max.mem --format=csv,noheader 2>&1 ||
      echo "no nvidia-smi"
    git log -1 --format=%h 2>/dev/null
    echo
    echo "| step | outcome | time |"
    echo "| --- | --- | ---: |"
  } >"$out/summary.md"
fi

if ((build)); then
  if [[ -z ${DWSCONV_CUDA_ARCHS:-} ]]; then
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
    [[ $capability =~ ^[0-9]+$ ]] || { note build "FAILED: nvidia-smi names no GPU"; echo "error: nvidia-smi names no GPU" >&2; exit 1; }
    if [[ $capability == 90 ]]; then capability=90a; fi
    export DWSCONV_CUDA_ARCHS=$capability
  fi
  step build 500 tools/cuda.sh
  cp build/cuda/report.md "$out/registers.md" 2>/dev/null
  before=()
  if [[ ${DWSCONV_CUDA_ARCHS%%[a-z]*} -lt 80 ]]; then before=(-DDWSCONV_BEFORE_80); fi
  step build_layouts 60 "$(cat build/cuda/nvcc)" -std=c++17 -O2 -I. "${before[@]}" \
    -gencode "arch=compute_$DWSCONV_CUDA_ARCHS,code=sm_$DWSCONV_CUDA_ARCHS" -o build/cuda/layouts cuda/testing/layouts.cu
  if [[ $DWSCONV_CUDA_ARCHS == 90a ]]; then
    step build_layouts_hopper 60 "$(cat build/cuda/nvcc)" -std=c++17 -O2 -I. -gencode arch=compute_90a,code=sm_90a \
      -o build/cuda/layouts_hopper cuda/testing/layouts_hopper.cu cuda/run/tensor_map.cu
  fi
fi
if [[ ! -e $library ]]; then
  note library "FAILED: there is no $(basename "$library")"
  echo "error: there is no $library" >&2
  exit 1
fi

checks=(python_tests/cuda/cuda_gpu_program.py python_tests/cuda/cuda_block_gpu_program.py python_tests/cuda/cuda_backward_gpu_program.py)
smoke=("$python" python_tests/cuda/cuda_smoke_program.py "$library" "${host[@]}")
if with first; then
  if on_card; then
    for name in layouts layouts_hopper; do
      if [[ -x build/cuda/$name ]]; then step $name 30 build/cuda/$name; else note $name "there is no build/cuda/$name"; fi
    done
  fi
  step smoke 240 "${smoke[@]}" "${only[@]}" --out "$out/smoke.md"
  if on_card; then
    step limits 60 "$python" cuda/bench/benchmark.py "$out" --library "$library" --limits
    if command -v compute-sanitizer >/dev/null; then
      grep -o '^FAILED [^:]*' "$out/smoke.log" | sed 's/^FAILED //' | head -5 | while read -r name; do
        step "memcheck_${name// /_}" 60 compute-sanitizer --tool memcheck --error-exitcode 9 "${smoke[@]}" --case "$name"
      done
    else
      note compute-sanitizer "not installed"
    fi
  fi
fi
if with checks && on_card; then
  for check in "${checks[@]}"; do
    step "$(basename "$check" _gpu_program.py)_checks" 180 "$python" "$check" "$library" --seconds 150
  done
fi
if with times && on_card; then
  # Other libraries, and the kernels that this one has a choice between.
  step ab 150 "$python" cuda/bench/ab.py "$out" "${others[@]}" "$library@two_step" "$library@two_step_wgmma" "$library@stream" \
    "$library@tensor_stream" "$library@deep" "$library"
  # One after the other of what is worth most; torch.compile, which takes seconds a layer, comes last.
  step benchmark 200 "$python" cuda/bench/benchmark.py "$out" --library "$library" --compile
  step sweep 150 "$python" cuda/bench/sweep.py "$out" --library "$library" --seconds 120
  if command -v ncu >/dev/null; then
    for layer in gpu-study_224x128-128 mobilenetv1_56x128-128_s1 mobilenetv1_14x512-512_s1 convnext_56x96-384_k7; do
      step "ncu_$layer" 40 ncu --clock-control none --section SpeedOfLight --section WarpStateStats \
        --section MemoryWorkloadAnalysis --section Occupancy --kernel-name regex:Kernel --launch-count 4 \
        "$python" cuda/bench/benchmark.py "$out" --library "$library" --once "$layer"
    done
  else
    note ncu "not installed"
  fi
  step compiled 150 "$python" cuda/bench/benchmark.py "$out/compiled" --library "$library" --batches 32 --dtypes float16
fi
if with rest && on_card; then
  step training 200 "$python" cuda/bench/layer_training.py "$out" --library "$library"
  step cifar 100 "$python" cuda/bench/cifar.py "$out" --library "$library"
  step blocks 120 "$python" cuda/bench/block.py "$out" --library "$library"
  if command -v compute-sanitizer >/dev/null; then
    for check in "${checks[@]}"; do
      step "$(basename "$check" _gpu_program.py)_racecheck" 60 compute-sanitizer --tool racecheck --error-exitcode 9 \
        "$python" "$check" "$library" --small --cases 30 --seconds 40
    done
  fi
fi
cat "$out/summary.md"
exit $failed
