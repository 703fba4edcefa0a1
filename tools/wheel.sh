#!/bin/bash
# tools/wheel.sh [FOLDER]: packs tf_dwsconv with the libraries that are built into a wheel of this platform, in FOLDER
# (default: dist/). The wheel is for the Python and the TensorFlow minor version of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${DWSCONV_PYTHON:-$PWD/.venv/bin/python}
folder=$(realpath -m "${1:-dist}")
for file in _dwsconv_ops.so _native.so _lab.so libtf_dwsconv.so tf_dwsconv.h _build_info.json; do
  if [[ ! -e tf_dwsconv/$file ]]; then
    echo "error: tf_dwsconv/$file is missing: run make build first" >&2
    exit 1
  fi
done

# From a copy: setuptools leaves a build/ behind that would bring deleted files back into the next wheel.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r pyproject.toml setup.py LICENSE tf_dwsconv "$copy"
if [[ -e README.md ]]; then cp README.md "$copy"; fi
find "$copy" -name __pycache__ -prune -exec rm -rf {} +

mkdir -p "$folder"
rm -f "$folder"/tf_dwsconv-*.whl
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-cache-dir \
  --wheel-dir "$folder" "$copy"
for wheel in "$folder"/tf_dwsconv-*.whl; do echo ">> $wheel"; done
