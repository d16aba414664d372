#!/bin/sh
# Makes sure that Debian's Chromium is there for the page's tests, and prints its path.
#
# Already installed: that one. Else with apt-get, as root, with a font for Chinese. Where that is not possible the reason
# goes to stderr, and those tests fail: make test-page is run on purpose.
set -eu

say() { echo "chromium: $*" >&2; }
found() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if found; then exit 0; fi
command -v apt-get >/dev/null || { say "not installed, and this is no Debian: install Chromium"; exit 1; }
if [ "$(id -u)" = 0 ]; then as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"
else say "not installed: apt-get install chromium fonts-noto-cjk"; exit 1
fi
say "installing with apt-get"
install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium fonts-noto-cjk"
$install >&2 || { $as_root apt-get update >&2 && $install >&2; }
found
