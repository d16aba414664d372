#!/bin/sh
# Makes sure that Debian's PostgreSQL is there for the tests, and prints the folder of its programs.
#
# Already installed: that one. Else with apt-get, as root. Else the Debian packages are unpacked, without root, into the
# cache folder. Where none of it is possible the reason goes to stderr; with CI=true that is a failure, elsewhere the
# tests skip that server.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/postgresql"

say() { echo "postgresql: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}
# Debian keeps initdb and postgres off the PATH.
found() {
    for folder in $(ls -d "$1"/usr/lib/postgresql/*/bin 2>/dev/null | sort -Vr); do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then echo "$folder"; return 0; fi
    done
    return 1
}

if found ""; then exit 0; fi
if command -v initdb >/dev/null && command -v postgres >/dev/null; then dirname "$(command -v initdb)"; exit 0; fi
if found "$cache"; then exit 0; fi
if ! command -v apt-get >/dev/null; then
    give_up "not installed, and this is no Debian: install it to run the control plane's tests on it"
fi

if [ "$(id -u)" = 0 ]; then as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"
else as_root=none
fi

if [ "$as_root" != none ]; then
    say "installing with apt-get"
    # The package would make and start a cluster; the tests start their own.
    install="$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends postgresql"
    $install >&2 || { $as_root apt-get update >&2 && $install >&2; } || say "apt-get could not install it"
    if found ""; then exit 0; fi
fi

say "unpacking the Debian packages into $cache"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
version="$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p' | head -n 1)"
[ -n "$version" ] || give_up "apt knows no package postgresql"
(cd "$work" && apt-get download "$version" libpq5 libllvm14 >&2) || (cd "$work" && apt-get download "$version" libpq5 >&2) ||
    give_up "the packages could not be downloaded"
rm -rf "$cache"
mkdir -p "$cache"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$cache"; done
folder="$(found "$cache")" || give_up "the unpacked packages hold no server"
"$folder/postgres" --version >&2 || give_up "the unpacked server does not run"
echo "$folder"
