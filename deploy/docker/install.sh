#!/bin/sh
# What the images' build stages share.
#
#   install.sh list EXTRAS            writes what the project needs with these extras, a requirement a line
#   install.sh dependencies TORCH     installs what /needs.txt lists, at the lock's versions, into /venv;
#                                     TORCH is none, cpu or gpu: whose build of torch, if any
#   install.sh code                   installs the services that were copied into the build folder into /app
#
# The list is a stage of its own, so that the gigabytes of `dependencies` are built and pulled anew only where it changes.
# TORCH_CPU_INDEX is the package index that has torch's CPU builds; empty = the usual one has them.
set -eu

pip() { python -m pip --disable-pip-version-check --no-input --python /venv/bin/python "$@"; }

case "$1" in
list)
    python - "$2" <<'PYTHON'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
for extra in [*sys.argv[1].split(","), "service"]:
    # An extra's reference to another one would make pip look for this project in an index.
    print(*(need for need in extras[extra] if not need.startswith("antiphon[")), sep="\n")
PYTHON
    ;;
dependencies)
    torch="$2"
    case "$torch" in
    none | cpu) lock=requirements.lock ;;
    gpu) lock=requirements-gpu.lock ;;
    *) echo "TORCH is none, cpu or gpu, not '$torch'" >&2; exit 2 ;;
    esac
    python -m venv --without-pip /venv
    if [ "$torch" = cpu ]; then
        set -- "torch==$(sed -n 's/^torch==//p' $lock)+cpu"
        if grep -q '^torchvision' /needs.txt; then
            set -- "$@" "torchvision==$(sed -n 's/^torchvision==//p' $lock)"
        fi
        pip install -c "$lock" ${TORCH_CPU_INDEX:+--extra-index-url "$TORCH_CPU_INDEX"} "$@"
    fi
    pip install -c "$lock" -r /needs.txt
    if [ "$torch" = cpu ]; then
        # They are built for CUDA and do not import beside a CPU torch; nothing here needs them.
        pip uninstall --yes torchaudio torchcodec triton
        /venv/bin/python torchvision_cpu.py
    fi
    ;;
code)
    pip install --no-deps --target /app .
    ;;
*)
    echo "list, dependencies or code, not '$1'" >&2
    exit 2
    ;;
esac
