"""Puts into the name of a wheel which systems it runs on: manylinux_2_34_x86_64, say, for linux_x86_64.

auditwheel reads which versions of the C and C++ libraries the wheel's libraries ask for. They may need those two and
TensorFlow's library, which `import tensorflow` has loaded by then; anything else is an error.
"""

import json
import subprocess
import sys
from pathlib import Path

TENSORFLOW = "libtensorflow_framework.so.2"


def platform_of(wheel: Path) -> str:
    """The platform tag that the libraries of a wheel allow, for example "manylinux_2_34_x86_64"."""
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: auditwheel cannot read {wheel.name}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    others = sorted(set(found["external_libs"]) - {TENSORFLOW})
    if others or found["unsupported_isa"]:
        raise SystemExit(f"error: {wheel.name} needs {', '.join(others) or 'a newer CPU'}, which users may not have")
    return found["sym_tag"]


def main() -> None:
    """Renames the wheel."""
    wheel = Path(sys.argv[1])
    command = [sys.executable, "-m", "wheel", "tags", "--remove", f"--platform-tag={platform_of(wheel)}", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: {wheel.name} cannot be renamed: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
