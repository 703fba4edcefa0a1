#!/bin/bash
# tools/build.sh [asan|avx512_model|cuda]: builds the libraries with Bazel and copies them, where they changed, into
# tf_dwsconv/ (asan: build/asan/tf_dwsconv/, likewise avx512_model), next to a record of what they were built with and for.
# tools/build.sh test [BAZEL ARGUMENTS]: builds and runs the C++ unit tests instead.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v g++ >/dev/null || tools/apt_install.sh "g++" g++
bazel=${BAZEL:-bazel}
# Debian's Bazel leaves out what third_party/debian.bzl needs.
debian=(bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms bazel-skylib)
command -v "$bazel" >/dev/null || tools/apt_install.sh "Bazel" "${debian[@]}"
if [[ -d /usr/share/bazel && ! (-d /usr/share/bazel/rules/java && -d /usr/share/bazel/rules/proto &&
  -d /usr/share/bazel/platforms && -d /usr/share/bazel/tools/skylib) ]]; then
  tools/apt_install.sh "A part of Debian's Bazel" "${debian[@]}"
fi

[[ -e /usr/include/nlohmann/json.hpp ]] || tools/apt_install.sh "nlohmann-json" nlohmann-json3-dev

export DWSCONV_PYTHON=${DWSCONV_PYTHON:-$PWD/.venv/bin/python}
# What the repository rules of third_party/ would answer differently for.
DWSCONV_STAMP=$("$DWSCONV_PYTHON" -c '
import sys
from importlib.metadata import version
print(sys.version.split()[0], version("tensorflow"), version("pybind11"))')
export DWSCONV_STAMP

if [[ ${1:-} == test ]]; then
  [[ -e /usr/include/gtest/gtest.h ]] || tools/apt_install.sh "GoogleTest" libgtest-dev
  exec "$bazel" test --build_tests_only --test_output=errors "${@:2}" //cc/...
fi

flags=()
bin=.bazel/bin
package=tf_dwsconv
if [[ ${1:-} == asan || ${1:-} == avx512_model ]]; then
  flags+=(--config="$1")
  bin=.bazel/$1-bin
  package=build/$1/tf_dwsconv
fi
if [[ ${1:-} == cuda ]]; then flags+=(--define=cuda=1); fi
"$bazel" build "${flags[@]}" //:_native.so //:_lab.so //:_dwsconv_ops.so //:libtf_dwsconv.so

mkdir -p "$package"
for library in _native.so _lab.so _dwsconv_ops.so libtf_dwsconv.so; do
  if ! cmp -s "$bin/$library" "$package/$library"; then
    # A process that has the old file mapped keeps it: the new one gets a name of its own until it is whole.
    install -m 755 "$bin/$library" "$package/$library.new"
    mv -f "$package/$library.new" "$package/$library"
    echo ">> new: $package/$library"
  fi
done
# The header of libtf_dwsconv.so goes with it.
cp -f cc/capi/tf_dwsconv.h "$package/"
"$DWSCONV_PYTHON" tools/write_build_info.py "$bin" "$package"
