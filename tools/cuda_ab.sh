#!/bin/bash
# tools/cuda_ab.sh REVISION...: the GPU kernels' library of each commit, as build/cuda_ab/libdwsconv_cuda_NAME.so, for
# cuda/bench/ab.py: so that one visit to a card measures each change. DWSCONV_CUDA_ARCHS is as for tools/cuda.sh.
set -euo pipefail
[[ $# -ge 1 ]] || { echo "usage: tools/cuda_ab.sh REVISION..." >&2; exit 2; }
cd "$(dirname "$0")/.."
root=$PWD
mkdir -p build/cuda_ab
for revision in "$@"; do
  commit=$(git rev-parse --short --verify "$revision^{commit}")
  library=$root/build/cuda_ab/libdwsconv_cuda_$commit.so
  [[ -e $library ]] && continue
  tree=$root/build/cuda_ab/$commit
  rm -rf "$tree"
  mkdir "$tree"
  git archive "$commit" cc cuda tools | tar -x -C "$tree"
  # It looks for its Python and compiler as this checkout does.
  DWSCONV_PYTHON=${DWSCONV_PYTHON:-$root/.venv/bin/python} "$tree/tools/cuda.sh"
  mv "$tree/build/cuda/libdwsconv_cuda.so" "$library"
  rm -rf "$tree"
  echo "$library"
done
