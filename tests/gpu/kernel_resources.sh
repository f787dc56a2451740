#!/usr/bin/env bash
# Registers, spills and shared memory of every kernel, as ptxas says for an architecture, as a table in Markdown. Needs
# nvcc, no card. Shared memory is dynamic: KERNELS is what the tests of tests/cuda_on_cpu wrote with
# VITSCALE_CUDA_KERNELS=KERNELS (coverage.sh leaves it as build/coverage/kernels.txt).
#
#   tests/gpu/kernel_resources.sh [ARCHITECTURE] [KERNELS]     default 90
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
architecture=${1:-90} launched=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nvcc=${CUDACXX:-nvcc}
for source in kernels/cuda/*.cu; do
  # The flags of the build (kernels/cuda/CMakeLists.txt); a cubin instead of an object.
  "$nvcc" -std=c++20 -O3 -I. -Xptxas -v -arch="sm_$architecture" -cubin \
    -o "$work/$(basename "$source").cubin" "$source" 2>"$work/$(basename "$source").log" ||
    { cat "$work/$(basename "$source").log" >&2; exit 1; }
done
[[ -z $launched ]] || cp "$launched" "$work/shared.txt"
python3 tests/gpu/kernel_resources.py "$architecture" "$work"
