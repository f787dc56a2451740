#!/usr/bin/env bash
# clang -fsyntax-only with thread-safety warnings as errors, over every source that takes part in the dev build
# and names a mutex, but for the one that needs CUDA's headers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cmake --preset clang >/dev/null
cmake --build build/clang --target vitscale_messages vitscale_services vitscale_server_rows >/dev/null
mapfile -t sources < <(git ls-files 'server/*.cc' 'worker/*.cc' 'client/*.cc' 'kernels/*.cc' ':!kernels/cuda/nccl/nccl_communicator.cc' | xargs grep -lE 'Mutex|GUARDED_BY|mutex\.h' || true)
echo "${#sources[@]} sources"
flags=(-std=c++20 -fsyntax-only -Wthread-safety -Werror=thread-safety -I. -isystem build/clang/proto/gen
       -isystem build/clang/server/core/gen)
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -n 1 clang++ "${flags[@]}"
