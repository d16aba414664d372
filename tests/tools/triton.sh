#!/bin/sh
# Makes sure that triton is there for the tests of the talker's GPU kernels, and prints the folder to put on PYTHONPATH.
#
# The CPU environment has no triton: torch's CPU build does not use it. It is installed beside, into the cache folder: its
# interpreter runs kernels on a CPU, and its compiler needs no GPU. Where that is not possible the reason goes to stderr;
# with CI=true that is a failure, elsewhere those tests are skipped.
set -eu

version=3.7.1  # what torch 2.13.0 for CUDA asks for
python="${1:-.venv/bin/python}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/triton"

if [ -d "$cache/triton-$version.dist-info" ]; then echo "$cache"; exit 0; fi
echo "triton: installing triton $version into $cache" >&2
work="$cache.new.$$"
trap 'rm -rf "$work"' EXIT
if "$python" -m pip --disable-pip-version-check install -qq --no-deps --target "$work" "triton==$version" >&2; then
    rm -rf "$cache" && mv "$work" "$cache"
    echo "$cache"
else
    echo "triton: triton $version could not be installed" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
fi
