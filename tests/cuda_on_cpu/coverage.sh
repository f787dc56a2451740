#!/usr/bin/env bash
# Which lines of kernels/cuda the tests of this folder execute on the host: builds with gcov's counters into
# build/coverage, runs every *_cuda_test and the tests of nccl/ and cudnn/, prints a line per file, the share of all, and
# how many kernels were launched. Device-only code (inline PTX, intrinsics) is not compiled here and does not count. Jobs
# of the build: CMAKE_BUILD_PARALLEL_LEVEL.
#   tests/cuda_on_cpu/coverage.sh [-v]      -v: also the lines that were never executed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build/coverage
cmake --preset dev -B "$build" -DVITSCALE_CUDA_COVERAGE=ON >/dev/null
mapfile -t tests < <(cd tests/cuda_on_cpu && ls ./*_cuda_test.cc | sed 's|^\./||; s|\.cc$||')
tests+=(nccl_test cudnn_variant_test cudnn_graph_test)
cmake --build "$build" --target "${tests[@]}"
find "$build" -name '*.gcda' -delete
export VITSCALE_CUDA_KERNELS=$PWD/$build/kernels.txt
rm -f "$VITSCALE_CUDA_KERNELS"
for test in "${tests[@]}"; do "$build/tests/$test" --gtest_brief=1; done
echo "$(cut -d' ' -f2- "$VITSCALE_CUDA_KERNELS" | sort -u | wc -l) kernels were launched (instances of templates, by name)"
exec python3 tests/cuda_on_cpu/coverage.py "$build" "$@"
