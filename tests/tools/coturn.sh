#!/bin/sh
# Makes sure that Debian's coturn, a STUN and TURN server, is there for the tests of calls, and prints its path.
#
# Already installed: that one. Else with apt-get, as root. Where that is not possible the reason goes to stderr; with
# CI=true that is a failure, elsewhere those tests skip.
set -eu

say() { echo "coturn: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}
found() { command -v turnserver; }

if found; then exit 0; fi
command -v apt-get >/dev/null || give_up "not installed, and this is no Debian: install it to try calls through a relay"
if [ "$(id -u)" = 0 ]; then as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"
else give_up "not installed: apt-get install coturn"
fi
say "installing with apt-get"
# The package would start a server of its own; the tests start theirs.
install="$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends coturn"
$install >&2 || { $as_root apt-get update >&2 && $install >&2; } || give_up "apt-get could not install it"
found || give_up "the package holds no turnserver"
