#!/bin/bash
# tools/cuda_shim.sh: compiles the GPU kernels for the CPU, over cuda/testing/shim.h, into
# build/cuda_shim/libdwsconv_cuda_shim.so: what the tests run where there is no GPU. Only what changed is compiled again.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/cuda_shim
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
flags=(-std=c++17 -O2 -march=native -ffp-contract=off -fPIC -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-psabi -I. -DDWSCONV_SHIM)
newest=$(ls -t cuda/*/*.cuh cuda/*/*.h cc/core/*.h cc/plan/cuda/*.h tools/cuda_shim.sh | head -1)
stale=() objects=()  # of the sources that are here: others may lie there from before
for source in cuda/*/*.cu cuda/*/*.cc cc/core/{infer,attributes}.cc cc/plan/cuda/*.cc; do
  case $source in cuda/run/machine.cu | cuda/run/tensor_map.cu | cuda/testing/*.cu) continue ;; esac
  object=$out/${source//\//_}.o
  objects+=("$object")
  if [[ ! $object -nt $source || ! $object -nt $newest ]]; then stale+=("$source"); fi
done
library=$out/libdwsconv_cuda_shim.so
linked=$(cat "$out/linked" 2>/dev/null || true)
if ((${#stale[@]} > 0)); then
  # One object at a time is written under another name: an interrupted compiler leaves nothing that looks finished.
  printf '%s\n' "${stale[@]}" | xargs -P "$(nproc)" -I{} bash -c '
    source=$1 object=$2/${1//\//_}.o
    shift 2
    ${CXX:-g++} "$@" -x c++ -c "$source" -o "$object.new" && mv "$object.new" "$object"' _ {} "$out" "${flags[@]}"
  rm -f "$library"
fi
if [[ ! -e $library || $linked != "${objects[*]}" ]]; then
  ${CXX:-g++} -shared -o "$library.new" "${objects[@]}"
  mv "$library.new" "$library"
  echo "${objects[*]}" >"$out/linked"
fi
