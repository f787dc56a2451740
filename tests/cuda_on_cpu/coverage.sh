#!/usr/bin/env bash
# Which lines of kernels/cuda the tests of this folder execute on the host: builds with gcov's counters into
# build/coverage, runs every *_cuda_test, prints a line per file and the share of all. Device-only code (inline PTX,
# intrinsics) is not compiled here and does not count.
#   tests/cuda_on_cpu/coverage.sh [-v]      -v: also the lines that were never executed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build/coverage
cmake --preset dev -B "$build" -DVITSCALE_CUDA_COVERAGE=ON >/dev/null
mapfile -t tests < <(cd tests/cuda_on_cpu && ls ./*_cuda_test.cc | sed 's|^\./||; s|\.cc$||')
cmake --build "$build" --target "${tests[@]}"
find "$build" -name '*.gcda' -delete
for test in "${tests[@]}"; do "$build/tests/$test" --gtest_brief=1; done
exec python3 tests/cuda_on_cpu/coverage.py "$build" "$@"
