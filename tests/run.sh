#!/usr/bin/env bash
# Builds everything and runs all tests with CTest. Arguments go to ctest: tests/run.sh -R kernels
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
deploy/install_packages.sh build data tests
tests/fetch_prometheus.sh || echo "tests/run.sh: no Prometheus to be had here; its tests will skip" >&2
cmake --preset dev
cmake --build build/dev
# Programs that train share two cores with each other; one test at a time keeps their deadlines honest.
exec ctest --test-dir build/dev --output-on-failure "$@"
