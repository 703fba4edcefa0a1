#!/bin/bash
# tools/other_build.sh asan|avx512_model: builds the libraries in another way, into a package of their own under build/, whose
# Python files are links to those of this tree.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
package=build/$1/tf_dwsconv

tools/build.sh "$1"
find "$package" -type l -delete
for file in tf_dwsconv/*; do
  case $file in
    *.so | *.h | *_build_info.json | *__pycache__) ;;
    *) ln -s "$root/$file" "$package/" ;;
  esac
done
