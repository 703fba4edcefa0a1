#!/bin/bash
# tools/apt_install.sh WHY PACKAGE...: installs Debian packages, or says what a person has to install.
set -euo pipefail

why=$1
shift

if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
  echo "error: $why is missing, and only root on a Debian machine can have it installed by make." >&2
  echo "       Install it, or run as root: apt-get install $*" >&2
  exit 1
fi

echo ">> $why is missing: installing Debian's $*"
export DEBIAN_FRONTEND=noninteractive
# The lists of a fresh image are empty, those of an old one name packages that are gone: update, then install.
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
