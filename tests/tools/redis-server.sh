#!/bin/sh
# Makes sure that Debian's redis-server is there for the tests, and prints its path.
#
# Already on PATH: that one. Else with apt-get, as root. Else the Debian packages are unpacked, without root, into the
# cache folder. Where none of it is possible the reason goes to stderr; with CI=true that is a failure, elsewhere the
# tests skip that server.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/antiphon/redis-server"

say() { echo "redis-server: $*" >&2; }
give_up() {
    say "$*"
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

if command -v redis-server; then exit 0; fi
if [ -x "$cache/redis-server" ]; then echo "$cache/redis-server"; exit 0; fi
if ! command -v apt-get >/dev/null; then
    give_up "not on PATH, and this is no Debian: install it to run the queues' tests on it"
fi

if [ "$(id -u)" = 0 ]; then as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"
else as_root=none
fi

if [ "$as_root" != none ]; then
    say "installing with apt-get"
    # The package would start a server; the tests start their own.
    if $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends redis-server >&2 ||
        { $as_root apt-get update >&2 &&
          $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends redis-server >&2; }
    then
        if command -v redis-server; then exit 0; fi
    fi
    say "apt-get could not install it"
fi

say "unpacking the Debian packages into $cache"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download redis-server redis-tools liblzf1 libjemalloc2 libatomic1 >&2) || give_up "the packages could not be downloaded"
rm -rf "$cache"
mkdir -p "$cache"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$cache/root"; done
# By this name: it is one program with redis-check-rdb, which acts by the name it is called by.
binary="$cache/root/usr/bin/redis-server"
libraries="$(dirname "$(find "$cache/root/usr/lib" -name 'libjemalloc.so.2' | head -n 1)")"
cat >"$cache/redis-server.new" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$libraries" exec "$binary" "\$@"
WRAPPER
chmod +x "$cache/redis-server.new"
"$cache/redis-server.new" --version | grep -q "Redis server" || give_up "the unpacked server does not run"
mv "$cache/redis-server.new" "$cache/redis-server"
echo "$cache/redis-server"
