#!/bin/bash
# Makes .venv, with the package's dependencies and the tools of its build and tests (extras "dev" of pyproject.toml), and
# this tree installed in it as an editable package. Run again, it brings .venv up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
command -v "$python" >/dev/null || tools/apt_install.sh "Python ($python)" python3
# Debian splits Python: venv, and the headers that pybind11 includes, are packages of their own.
"$python" -c 'import ensurepip, venv' 2>/dev/null || tools/apt_install.sh "Python's module venv" python3-venv
header='import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))'
"$python" -c "$header" || tools/apt_install.sh "Python.h" python3-dev

# Two runs of make in one tree wait for each other here.
exec 9>.venv.lock
flock 9
if [[ -e .venv/ready && .venv/ready -nt pyproject.toml ]]; then exit 0; fi

echo ">> making .venv (TensorFlow and the tools of the build: about 2 GB, some minutes)"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --progress-bar off --disable-pip-version-check 'setuptools>=77' wheel
.venv/bin/python -m pip install --progress-bar off --disable-pip-version-check --no-build-isolation -e '.[dev]'
touch .venv/ready
