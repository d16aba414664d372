#!/bin/sh
# Makes sure that recorded speech is there for the tests of turn detection, and prints its folder.
#
# It is what Allison Smith says in Debian's asterisk-core-sounds-en-g722 (CC-BY-SA-3.0), unpacked without root into the cache
# folder. Where that is not possible the reason goes to stderr; with CI=true that is a failure, elsewhere those tests are
# skipped.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/prompts"

say() { echo "prompts: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

if [ -d "$cache" ]; then echo "$cache"; exit 0; fi
command -v apt-get >/dev/null || give_up "this is no Debian: there is no recorded speech to test with"

say "unpacking Debian's package into $cache"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
fetch() { (cd "$work" && apt-get download asterisk-core-sounds-en-g722 >&2); }
fetch || { [ "$(id -u)" = 0 ] && apt-get update >&2 && fetch; } || give_up "the package could not be downloaded"
dpkg-deb -x "$work"/asterisk-core-sounds-en-g722_*.deb "$work/root"
mkdir -p "$(dirname "$cache")"
rm -rf "$cache.new"
mv "$work/root/usr/share/asterisk/sounds/en_US_f_Allison" "$cache.new"
mv "$cache.new" "$cache"
echo "$cache"
