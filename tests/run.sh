#!/usr/bin/env bash
# Installs the Debian packages that are missing (as root, or with sudo), builds everything in build/dev and runs all tests
# with CTest. Arguments go to ctest:
#
#   tests/run.sh
#   tests/run.sh -R kernels
set -euo pipefail
for argument in "$@"; do
  case "$argument" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/install_packages.sh build data tests
tests/fetch_prometheus.sh || echo "tests/run.sh: no Prometheus to be had here; its tests will skip" >&2
cmake --preset dev
cmake --build build/dev
# Programs that train share two cores with each other; one test at a time keeps their deadlines honest.
exec ctest --test-dir build/dev --output-on-failure "$@"
