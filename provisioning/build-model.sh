#!/usr/bin/env bash
# Builds a model directory: ./provisioning/build-model.sh --source SRC --out DIR [--precision int8|int4]
# Makes .venv-build first when it is missing; --help lists the rest.
set -euo pipefail
# shellcheck source=provisioning/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

make_venvs build
# -I: neither the current directory nor PYTHON* variables decide what is imported.
exec "$checkout/.venv-build/bin/python" -I -m provisioning.build_model "$@"
