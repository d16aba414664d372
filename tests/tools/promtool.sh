#!/bin/sh
# Makes sure that promtool is there for the tests of alerts and dashboards, and prints its path.
#
# Already on PATH: that one. Else Debian's `prometheus` package is unpacked, without root, into the cache folder. Where
# that is not possible the reason goes to stderr; with CI=true that is a failure, elsewhere those tests are skipped.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/promtool"

say() { echo "promtool: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

if command -v promtool; then exit 0; fi
if [ -x "$cache/promtool" ]; then echo "$cache/promtool"; exit 0; fi
command -v apt-get >/dev/null || give_up "not on PATH, and this is no Debian: install Prometheus to test the alerts"

say "unpacking Debian's package into $cache"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
fetch() { (cd "$work" && apt-get download prometheus >&2); }
fetch || { [ "$(id -u)" = 0 ] && apt-get update >&2 && fetch; } || give_up "the package could not be downloaded"
dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
"$work/root/usr/bin/promtool" --version >/dev/null 2>&1 || give_up "the unpacked promtool does not run"
mkdir -p "$cache"
cp "$work/root/usr/bin/promtool" "$cache/promtool.new"
mv "$cache/promtool.new" "$cache/promtool"
echo "$cache/promtool"
