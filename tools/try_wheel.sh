#!/bin/bash
# tools/try_wheel.sh WHEEL [SUITE]: installs a wheel, with its dependencies, in an empty Debian (default: bookworm, which is
# Debian 12) and runs `python -m tf_dwsconv` there. The empty system is one of debootstrap's, in a temporary folder; only root
# can make it. That takes some minutes, 4 GB of disk and a network.
#
# The exit status is that of pip, where it refuses the wheel, or that of the check.
set -euo pipefail

wheel=${1:-}
suite=${2:-bookworm}
if [[ $# -lt 1 || $# -gt 2 || ! -f $wheel || $wheel != *.whl ]]; then
  echo "usage: tools/try_wheel.sh WHEEL [SUITE], where WHEEL is a file such as dist/tf_dwsconv-*.whl; given: $*" >&2
  exit 2
fi
wheel=$(realpath "$wheel")
cd "$(dirname "$0")/.."
if [[ $(id -u) != 0 ]]; then
  echo "error: only root can make an empty system and run programs in it" >&2
  exit 1
fi
PATH=$PATH:/usr/sbin:/sbin
command -v debootstrap >/dev/null || tools/apt_install.sh debootstrap debootstrap

system=$(mktemp -d)
# It has mounts of its own, in a namespace that ends with each command, so this deletes nothing else.
trap 'rm -rf --one-file-system "$system"' EXIT
echo ">> an empty Debian, $suite"
if ! debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$system" >"$system.log" 2>&1; then
  tail -5 "$system.log" >&2
  echo "error: debootstrap cannot make $suite; $system.log has its output" >&2
  exit 1
fi
rm -f "$system.log"
# The network's certificates and names are the same as outside.
cp /etc/ssl/certs/ca-certificates.crt "$system/etc/ssl/certs/ca-certificates.crt"
cp /etc/resolv.conf "$system/etc/resolv.conf"
cp "$wheel" "$system/tmp"

# inside COMMAND...: runs a command in the empty system, with no variable of this one.
inside() {
  unshare --mount -- bash -c 'mount -t proc proc "$0/proc" && mount -t sysfs -o ro sysfs "$0/sys" && exec chroot "$@"' \
    "$system" "$system" env -i PATH=/usr/bin:/bin HOME=/root PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@"
}
inside python3 -c 'import os, sys; print(">>", " ".join(os.confstr("CS_GNU_LIBC_VERSION").split()), "and Python", sys.version.split()[0])'
inside python3 -m venv /tried
inside /tried/bin/pip install --quiet --disable-pip-version-check "/tmp/$(basename "$wheel")"
for disabled in "" 1; do
  inside env DWSCONV_DISABLE=$disabled /tried/bin/python -m tf_dwsconv
done
