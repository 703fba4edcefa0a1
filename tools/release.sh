#!/bin/bash
# tools/release.sh [TENSORFLOWS] [PYTHONS]: dist/ with an sdist, and a wheel for each TensorFlow (default: "2.19 2.20 2.21")
# and each Python (default: those from 3.10 on that are installed). Each wheel is installed into a fresh virtual environment,
# with its dependencies, and checked there, by its own library and by stock ops.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

read -r -a tensorflows <<<"${1:-2.19 2.20 2.21}"
read -r -a pythons <<<"${2:-}"
if [[ ${#pythons[@]} == 0 ]]; then
  for minor in 10 11 12 13; do
    for python in "python3.$minor" "$HOME"/.pyenv/versions/3."$minor".*/bin/python; do
      # Not every name on the PATH is an interpreter: pyenv has one for each version that some project wants.
      if command -v "$python" >/dev/null && "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        pythons+=("$python")
        break
      fi
    done
  done
fi
for tensorflow in "${tensorflows[@]}"; do
  if [[ ! $tensorflow =~ ^2\.[0-9]+$ ]]; then
    echo "error: TENSORFLOWS must be minor versions such as \"2.20 2.21\"; given $tensorflow" >&2
    exit 2
  fi
done
for python in "${pythons[@]}"; do
  if ! command -v "$python" >/dev/null || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "error: PYTHONS must be interpreters that have the module venv; given $python" >&2
    exit 2
  fi
done
if [[ ${#pythons[@]} == 0 ]]; then
  echo "error: there is no Python from 3.10 to 3.13 with the module venv; PYTHONS names others" >&2
  exit 1
fi
echo ">> TensorFlow ${tensorflows[*]}, for ${pythons[*]}"

pip=(-m pip --disable-pip-version-check -q)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pin() { grep -oE "\"$1[=>~][^\"]*\"" pyproject.toml | head -1 | tr -d '"'; }

made=()
# release_one PYTHON TENSORFLOW: one wheel, tried. In a subshell of its own, so that what it exports ends with it.
release_one() {
  local python=$1 tensorflow=$2
  local builder=$work/builder/bin/python tried=$work/tried/bin/python
  rm -rf "$work"/*
  "$python" -m venv "$work/builder"
  "$builder" "${pip[@]}" install "tensorflow~=$tensorflow.0" "$(pin pybind11)" "$(pin auditwheel)" "setuptools>=77" wheel
  export DWSCONV_PYTHON=$builder DWSCONV_PACKAGE=$work/package
  tools/build.sh
  tools/wheel.sh "$work/dist"
  "$python" -m venv "$work/tried"
  "$tried" "${pip[@]}" install "$work"/dist/*.whl
  for disabled in 0 1; do
    (cd / && DWSCONV_DISABLE=$disabled "$tried" -I -m tf_dwsconv)
  done
  mkdir -p dist
  mv "$work"/dist/*.whl dist
}

for tensorflow in "${tensorflows[@]}"; do
  for python in "${pythons[@]}"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo ">> TensorFlow $tensorflow, Python $version"
    if ! "$python" -m venv --clear "$work/asked" ||
      ! "$work/asked/bin/python" "${pip[@]}" install --dry-run --no-deps "tensorflow~=$tensorflow.0" 2>"$work/why"; then
      if grep -q "No matching distribution" "$work/why"; then
        echo ">> there is no TensorFlow $tensorflow for Python $version: left out"
        continue
      fi
      cat "$work/why" >&2
      exit 1
    fi
    (release_one "$python" "$tensorflow")
    made+=("TensorFlow $tensorflow, Python $version")
  done
done
if [[ ${#made[@]} == 0 ]]; then
  echo "error: no wheel was made, as no TensorFlow asked for exists for a Python asked for" >&2
  exit 1
fi
tools/sdist.sh dist
echo ">> dist/: an sdist and ${#made[@]} wheels, each tried in an environment of its own:"
for one in "${made[@]}"; do echo "   $one"; done
