"""The build backend of pyproject.toml: setuptools, with what only a wheel needs.

A wheel holds libraries that Bazel builds for one TensorFlow, so it needs both of them; an sdist and an editable
installation (`make venv`) need neither. `DWSCONV_TENSORFLOW=2.20 pip install .` builds for another TensorFlow than the
newest that is supported.
"""

import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (pip calls them)
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
)

DEBIAN = "g++ bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms bazel-skylib nlohmann-json3-dev"
JSON = Path("/usr/include/nlohmann/json.hpp")


def pin(name):
    """What pyproject.toml says of a package that the build needs, for example "pybind11==3.1.0"."""
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf'"({name}[=~]=[^"]*)"', text).group(1)


def fail(message):
    """Ends the build with one line."""
    raise SystemExit(f"error: {message}")


def check_tools():
    """Ends the build where it cannot succeed, before pip fetches hundreds of megabytes for it."""
    if os.environ.get("DWSCONV_PREBUILT"):
        return
    if sys.platform != "linux" or platform.machine() != "x86_64":
        fail(f"tf_dwsconv is built for Linux on x86-64; this is {sys.platform} on {platform.machine()}.")
    missing = [tool for tool in ("g++", os.environ.get("BAZEL", "bazel")) if shutil.which(tool) is None]
    if not JSON.exists() and os.geteuid() != 0:  # as root, tools/build.sh installs it on Debian
        missing.append(str(JSON))
    if missing:
        fail(
            f"tf_dwsconv builds its libraries with g++ and Bazel, and {' and '.join(missing)} cannot be found. Install "
            f"them (Debian 12: apt-get install {DEBIAN}), or install a wheel of tf_dwsconv, which needs none of them."
        )


def get_requires_for_build_wheel(config_settings=None):
    """What pip installs for the build: TensorFlow of the minor version that the libraries are for, and pybind11."""
    check_tools()
    found = build_meta.get_requires_for_build_wheel(config_settings)
    if os.environ.get("DWSCONV_PREBUILT"):
        return found
    minor = os.environ.get("DWSCONV_TENSORFLOW")
    if minor is not None and not re.fullmatch(r"2\.[0-9]+", minor):
        fail(f"DWSCONV_TENSORFLOW must be a minor version of TensorFlow such as 2.21; given {minor!r}.")
    return [*found, pin("pybind11"), f"tensorflow~={minor}.0" if minor else pin("tensorflow")]


def _of_wheel(hook, *arguments):
    """Calls a hook of setuptools with the environment that setup.py reads."""
    check_tools()
    if not os.environ.get("DWSCONV_PREBUILT"):
        for name in ("tensorflow", "pybind11"):
            try:
                version(name)
            except PackageNotFoundError:
                fail(f"the build needs the package {name}: pip install '{pin(name)}', or let pip isolate the build.")
    os.environ["DWSCONV_WHEEL"] = "1"
    return hook(*arguments)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """The metadata of a wheel."""
    return _of_wheel(build_meta.prepare_metadata_for_build_wheel, metadata_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel with its libraries."""
    return _of_wheel(build_meta.build_wheel, wheel_directory, config_settings, metadata_directory)
