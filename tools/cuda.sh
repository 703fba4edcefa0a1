#!/bin/bash
# tools/cuda.sh: compiles the GPU kernels with nvcc into build/cuda/libdwsconv_cuda.so, writes build/cuda/report.md
# (registers and spills), and fails where a fast kernel spills. Only what changed is compiled again.
#
# DWSCONV_CUDA_ARCHS, such as "90a" or "80 90", are the architectures; "all" is every one that the toolkit knows. By default
# it is the first of each major version, whose code runs on the later ones of that version too, and PTX for newer cards;
# of 9.0, which has no later ones, the code with its own instructions.
#
# DWSCONV_CUDA_OUT is another folder than build/cuda. DWSCONV_CUDA_STRICT=0: warnings are no errors, for compilers that
# nobody has tried yet.
#
# nvcc is that of DWSCONV_NVCC, else the one on PATH, else that of NVIDIA's packages on PyPI, put into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${DWSCONV_PYTHON:-.venv/bin/python}
[[ -x $python ]] || python=python3
nvcc=${DWSCONV_NVCC:-$(command -v nvcc || true)}
from_pip() { ls "$1"/lib/python3*/site-packages/nvidia/cu*/bin/nvcc 2>/dev/null | tail -1; }
if [[ -z $nvcc ]]; then
  nvcc=$(from_pip .venv || true)
  if [[ -z $nvcc ]]; then
    echo ">> no nvcc on PATH: installing NVIDIA's packages into .venv" >&2
    [[ -x .venv/bin/python ]] || { echo "error: there is no .venv; run make venv, or put nvcc on PATH" >&2; exit 1; }
    # One minor version of all: the compiler and its headers fit no other.
    .venv/bin/python -m pip install --progress-bar off --disable-pip-version-check nvidia-cuda-nvcc==13.0.* \
      nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-cccl==13.0.* >&2
    nvcc=$(from_pip .venv)
  fi
fi
[[ -n $nvcc && -x $nvcc ]] || { echo "error: there is no nvcc: neither DWSCONV_NVCC nor PATH has one" >&2; exit 1; }

# Real architectures, each from the newest virtual one of those below that is not newer: the kernels make a difference
# at 8.0 alone, so the front end need not run for each.
known=$("$nvcc" --list-gpu-code | sed -n 's/^sm_\([0-9]*[a-z]*\)$/\1/p' | sort -n)
archs=${DWSCONV_CUDA_ARCHS:-$(awk '!seen[int($1 / 10)]++' <<<"$known" | sed 's/^90$/90a/')}
if [[ $archs == all ]]; then archs=$known; fi
virtual_of() {
  local number=${1%%[a-z]*} best=75
  case $1 in *[a-z]) echo "$1"; return ;; esac
  for base in 75 80 90 100; do if ((base <= number)); then best=$base; fi; done
  echo $best
}
declare -A codes=()
for arch in $archs; do codes[$(virtual_of "$arch")]+="sm_$arch,"; done
gencode=()
newest=$(printf '%s\n' "${!codes[@]}" | sort -n | tail -1)
for virtual in "${!codes[@]}"; do
  code=${codes[$virtual]%,}
  # PTX of the newest for cards that are yet to come.
  if [[ $virtual == "$newest" && $virtual != *[a-z] ]]; then code+=",compute_$virtual"; fi
  gencode+=(-gencode "arch=compute_$virtual,code=[$code]")
done

out=${DWSCONV_CUDA_OUT:-build/cuda}
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
echo "$nvcc" >"$out/nvcc"  # for whoever compiles more by the same one
# Where nvcc really lives: what is on PATH may be a link to it or a script.
toolkit=$("$nvcc" -dryrun -x cu -c /dev/null -o /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
host=-fPIC,-Wall,-Wextra,-fvisibility=hidden
flags=(-std=c++17 -O3 -I. -Xptxas -v)
if [[ ${DWSCONV_CUDA_STRICT:-1} != 0 ]]; then
  host+=,-Werror
  flags+=(-Werror all-warnings)
fi
flags+=(-Xcompiler "$host")
stamp="$("$nvcc" --version | tail -1) ${gencode[*]} ${flags[*]}"
[[ -e $out/stamp && $(cat "$out/stamp") == "$stamp" ]] || { rm -f "$out"/*.o; echo "$stamp" >"$out/stamp"; }
newest_header=$(ls -t cuda/*/*.cuh cuda/*/*.h cc/core/*.h cc/plan/cuda/*.h | head -1)
stale=() objects=()  # of the sources that are here: others may lie there from before
for source in cuda/*/*.cu cuda/*/*.cc cc/core/{infer,attributes}.cc cc/plan/cuda/*.cc; do
  case $source in cuda/testing/*) continue ;; esac
  object=$out/${source//\//_}.o
  objects+=("$object")
  if [[ ! $object -nt $source || ! $object -nt $newest_header ]]; then stale+=("$source"); fi
done
compile() {
  local source=$1 object=$2/${1//\//_}.o
  if [[ $source == *.cu ]]; then
    local -a options=("${@:3}")
  else
    # Symbols of the C functions alone are to be seen.
    local -a options=(-std=c++17 -O3 -I. -Xcompiler "$DWSCONV_CUDA_HOST")
  fi
  if ! "$DWSCONV_NVCC" "${options[@]}" -c "$source" -o "$object.new" >"$object.log" 2>&1; then
    echo "error: $source does not compile" >&2
    grep -v '^ptxas info' "$object.log" >&2
    return 1
  fi
  mv "$object.new" "$object"
}
export -f compile
export DWSCONV_NVCC=$nvcc DWSCONV_CUDA_HOST=$host
if ((${#stale[@]} > 0)); then
  rm -f "$out/libdwsconv_cuda_kernels.a"
  echo ">> nvcc: ${#stale[@]} files for ${archs//$'\n'/ }"
  printf '%s\n' "${stale[@]}" | xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' _ {} "$out" "${gencode[@]}" "${flags[@]}"
fi
linked=$(cat "$out/linked" 2>/dev/null || true)
if [[ ! -e $out/libdwsconv_cuda_kernels.a || $linked != "${objects[*]}" ]]; then
  rm -f "$out/libdwsconv_cuda_kernels.a"
  "$nvcc" -shared -cudart static -L"$toolkit/lib" -o "$out/libdwsconv_cuda.so.new" "${objects[@]}"
  mv "$out/libdwsconv_cuda.so.new" "$out/libdwsconv_cuda.so"
  # For the op library: what g++ does not compile there itself, and the CUDA runtime.
  runtime=
  for folder in lib64 lib; do
    if [[ -e $toolkit/$folder/libcudart_static.a ]]; then runtime=$toolkit/$folder/libcudart_static.a; fi
  done
  [[ -n $runtime ]] || { echo "error: there is no libcudart_static.a under $toolkit" >&2; exit 1; }
  {
    echo "create $out/libdwsconv_cuda_kernels.a"
    for object in "${objects[@]}"; do
      if [[ $object == *.cu.o ]]; then echo "addmod $object"; fi
    done
    echo "addlib $runtime"
    echo save
  } | ar -M
  echo "${objects[*]}" >"$out/linked"
fi
"$python" tools/cuda_report.py "$out"
