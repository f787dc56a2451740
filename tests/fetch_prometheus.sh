#!/usr/bin/env bash
# Unpacks Debian's prometheus package (server and promtool) into build/tools/prometheus, without installing it: a
# test needs a real Prometheus, a developer's machine needs no new service.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$PWD/build/tools/prometheus
[ -x "$target/usr/bin/promtool" ] && exit 0
mkdir -p build/tools
work=$(mktemp -d build/tools/download-XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download prometheus >/dev/null
dpkg-deb -x prometheus_*.deb unpacked
rm -rf "$target"
mv unpacked "$target"
