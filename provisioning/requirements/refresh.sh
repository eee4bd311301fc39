#!/usr/bin/env bash
# Writes the locks anew from pyproject.toml: the newest releases that fit together, with hashes, for
# Linux on x86-64 and arm64 and Python 3.10 to 3.13. Needs Python, pip and a package index.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check uv
cp "$here/../../pyproject.toml" "$scratch"
cd "$scratch"

# Left out on purpose; the README beside this file says why.
printf '%s\n' torch torchvision openvino-tokenizers openvino-telemetry >not-in-build
printf '%s\n' huggingface-hub openvino-telemetry >not-in-run

# Wheels only, so that a machine needs no compiler. The old locks are not read: newest means newest.
compile() { # compile NAME ARGUMENT...
  local lock=$1.lock
  shift
  echo "refreshing $lock"
  "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.10 \
    --only-binary :all: --generate-hashes --annotation-style line \
    --custom-compile-command ./provisioning/requirements/refresh.sh --output-file "$lock" "$@"
}

# The build world's packages cap each other most, so it goes first and the others follow it: one
# release of OpenVINO then writes the IR and reads it.
compile build --group pyproject.toml:build --excludes not-in-build
compile run pyproject.toml --group install --excludes not-in-run --constraints build.lock
compile test pyproject.toml --group install --group test --excludes not-in-run \
  --constraints build.lock --constraints run.lock
compile provision --group pyproject.toml:provision

# The clients' venv sees the tests' packages, so its lock holds only what those lack: resolved
# together first, then without the rest.
with_tests() {
  compile "$1" pyproject.toml --group install --group test --group clients \
    --constraints test.lock "${@:2}"
}
with_tests clients-and-tests --excludes not-in-run
sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' test.lock | sort -u | cat - not-in-run >not-in-clients
with_tests clients --excludes not-in-clients --constraints clients-and-tests.lock

cp build.lock run.lock test.lock provision.lock clients.lock "$here"
