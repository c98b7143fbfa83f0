#!/usr/bin/env bash
# Chromium for the tests of pages, if none is on PATH: installed by apt-get where we are root; else one line says how.
set -euo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
install() { apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    install || { apt-get update -qq && install; } # the lists of packages may be missing or old
    command -v chromium >/dev/null && exit 0
fi
echo 'Chromium is needed to test pages: apt-get install chromium' >&2
exit 1
