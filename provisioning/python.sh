# shellcheck shell=bash
# For the scripts to source: which Python makes the venvs, and making them.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Prints the interpreter: $PYTHON if set, else the first of python3 and python3.13 to python3.10
# that is a version this project runs on.
find_python() {
  local is_supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    if ! "$PYTHON" -c "$is_supported" 2>/dev/null; then
      echo "PYTHON=$PYTHON is not a Python 3.10 to 3.13; name another or leave PYTHON unset" >&2
      return 1
    fi
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c "$is_supported" 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  echo "no Python 3.10 to 3.13 on PATH; install one, or name it: PYTHON=/path/to/python3.12 $0" >&2
  return 1
}

# make_venvs WORLD...: has the venvs of these worlds (see venvs.py) ready.
make_venvs() {
  local python
  python=$(find_python)
  "$python" "$checkout/provisioning/venvs.py" "$@"
}
