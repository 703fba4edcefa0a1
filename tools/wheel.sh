#!/bin/bash
# tools/wheel.sh [FOLDER]: packs tf_dwsconv with the libraries that are built into a wheel of this platform, in FOLDER
# (default: dist/), whose name says which systems it runs on. The wheel is for the Python and the TensorFlow minor version
# of .venv. DWSCONV_PACKAGE names a folder with libraries that were built elsewhere (tools/release.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

python=${DWSCONV_PYTHON:-$PWD/.venv/bin/python}
folder=$(realpath -m "${1:-dist}")
built=${DWSCONV_PACKAGE:-tf_dwsconv}
libraries=(_dwsconv_ops.so _native.so _lab.so libtf_dwsconv.so tf_dwsconv.h _build_info.json)
for file in "${libraries[@]}"; do
  if [[ ! -e $built/$file ]]; then
    echo "error: $built/$file is missing: run make build first" >&2
    exit 1
  fi
done

# From a copy: setuptools leaves a build/ behind that would bring deleted files back into the next wheel.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/tools"
cp tools/build_backend.py "$copy/tools"
cp -r pyproject.toml setup.py README.md LICENSE tf_dwsconv "$copy"
for file in "${libraries[@]}"; do cp "$built/$file" "$copy/tf_dwsconv"; done
find "$copy" -name __pycache__ -prune -exec rm -rf {} +

# One build's wheel at a time: FOLDER may hold those for other Pythons and TensorFlows.
DWSCONV_PREBUILT=1 "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
  --no-cache-dir --wheel-dir "$copy/dist" "$copy"
"$python" tools/tag_wheel.py "$copy"/dist/*.whl
mkdir -p "$folder"
for wheel in "$copy"/dist/*.whl; do
  mv -f "$wheel" "$folder"
  echo ">> $folder/$(basename "$wheel")"
done
