#!/usr/bin/env bash
# Lint, format, types and shell scripts, all of them even if one fails: ./tests/check.sh
set -euo pipefail
# shellcheck source=provisioning/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/../provisioning/python.sh"
cd "$checkout"
make_venvs test

bin=.venv-test/bin
status=0
"$bin/ruff" check . || status=1
"$bin/ruff" format --check . || status=1
"$bin/mypy" || status=1
"$bin/shellcheck" --external-sources provisioning/*.sh provisioning/*/*.sh tests/*.sh .ci/run ||
  status=1
exit "$status"
