#!/bin/bash
# tools/sdist.sh [FOLDER]: packs the tracked files into an sdist, in FOLDER (default: dist/). pip builds the libraries of
# one where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${DWSCONV_PYTHON:-$PWD/.venv/bin/python}
folder=$(realpath -m "${1:-dist}")
mkdir -p "$folder"
# From a copy: setuptools leaves files of its own behind.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf - | tar -xf - -C "$copy"
cd "$copy"
PYTHONPATH=tools "$python" -c 'import sys, build_backend; print(">>", build_backend.build_sdist(sys.argv[1]))' \
  "$folder" | grep '^>>'
