"""What pyproject.toml cannot say: a wheel holds libraries that Bazel builds, and is for one TensorFlow.

tools/build_backend.py sets DWSCONV_WHEEL while it makes a wheel. DWSCONV_PREBUILT says that the libraries lie in the
package already (tools/wheel.sh).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
IS_WHEEL = bool(os.environ.get("DWSCONV_WHEEL"))
IS_PREBUILT = bool(os.environ.get("DWSCONV_PREBUILT"))


def tensorflow():
    """The minor version of TensorFlow that the wheel is for, for example "2.21"."""
    if IS_PREBUILT:
        built_for = json.loads((ROOT / "tf_dwsconv" / "_build_info.json").read_text(encoding="utf-8"))["tensorflow"]
    else:
        built_for = version("tensorflow")
    return ".".join(built_for.split(".")[:2])


def requirement():
    """What pip installs with the wheel; another TensorFlow would leave the op library unused."""
    return f"tensorflow~={tensorflow()}.0"


class BinaryDistribution(Distribution):
    """Names the TensorFlow of a wheel; gets the tag of this interpreter and platform, although Bazel compiles."""

    def has_ext_modules(self):
        return True

    def parse_config_files(self, *arguments, **options):
        super().parse_config_files(*arguments, **options)
        if not IS_WHEEL:
            return
        self.extras_require["tensorflow"] = [requirement()]
        # pip insists that what it builds from an sdist has the version of that sdist.
        if not (ROOT / "PKG-INFO").exists():
            self.metadata.version = f"{self.metadata.version}+tf{tensorflow()}"


class BuildWithLibraries(build_py):
    """Copies the package, and builds its libraries into the copy: those of a checkout may be for another Python."""

    def run(self):
        package = Path(self.build_lib).resolve() / "tf_dwsconv"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)  # what an earlier build left there
        super().run()
        if self.editable_mode or not IS_WHEEL or IS_PREBUILT:
            return
        for stale in package.glob("*.so"):
            stale.unlink()
        environment = {**os.environ, "DWSCONV_PYTHON": sys.executable, "DWSCONV_PACKAGE": str(package)}
        built = subprocess.run([str(ROOT / "tools" / "build.sh")], env=environment)
        if Path(tempfile.gettempdir()) in ROOT.parents:  # of pip, which deletes it: Bazel's files would stay for ever
            subprocess.run([os.environ.get("BAZEL", "bazel"), "clean", "--expunge"], cwd=ROOT, capture_output=True)
        if built.returncode != 0:
            raise SystemExit("error: tools/build.sh could not build the libraries of tf_dwsconv; its output is above.")


setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildWithLibraries},
    install_requires=["ml_dtypes>=0.4", "numpy>=1.24", *([requirement()] if IS_WHEEL else [])],
)
