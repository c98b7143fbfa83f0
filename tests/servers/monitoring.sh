#!/usr/bin/env bash
# Prometheus and Alertmanager with their tools, for `make servers`: unpacked from the distribution's packages into the
# given folder. Needs no root and installs nothing; what is on PATH is used as it is.
set -euo pipefail
folder=$1
packages=(prometheus prometheus-alertmanager)

fail() {
    echo "$1; install them (Debian, Ubuntu: apt-get install ${packages[*]}), or put prometheus, promtool," \
        "alertmanager and amtool on PATH" >&2
    exit 1
}

found() { command -v "$1" >/dev/null; }

rm -rf "$folder"
mkdir -p "$folder"
if found prometheus && found promtool && found amtool && { found alertmanager || found prometheus-alertmanager; }; then
    exit 0
fi
found apt-get && found dpkg-deb || fail "Prometheus and Alertmanager are needed, and there is no apt-get to fetch them"
cd "$folder"
# A machine that has just been made may have no package lists, and only root may fetch those: then lists of our own.
own=(-o "Dir::State::Lists=$PWD/lists" -o "Dir::Cache=$PWD/cache")
if ! apt-get -qq download "${packages[@]}" 2>/dev/null; then
    mkdir -p lists/partial cache
    apt-get -qq "${own[@]}" update >&2 || true # what could not be fetched is missed by the next line
    apt-get -qq "${own[@]}" download "${packages[@]}" || fail "Prometheus and Alertmanager could not be fetched"
fi
for package in *.deb; do
    dpkg-deb -x "$package" .
done
rm -rf -- *.deb lists cache
# Debian's Alertmanager knows its templates by this path alone. Made relative, and of the same length, it looks where it
# is started: tests/servers/alertmanager.py starts it where they are.
templates=/usr/share/prometheus/alertmanager
slashes=${templates//?//}
LC_ALL=C sed -i "s#$templates#.${slashes:1}#g" usr/bin/prometheus-alertmanager
