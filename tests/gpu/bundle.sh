#!/usr/bin/env bash
# Packs what a machine with a GPU needs to test and time the engine, and nothing to build it:
#
#   tests/gpu/bundle.sh [FOLDER]      FOLDER and FOLDER.tar.gz; default build/vitscale-gpu
#
# There: tar xzf vitscale-gpu.tar.gz && vitscale-gpu/run.sh
#
#   bin/    vitscale-bench, vitscale-train, device-ceiling (release, without gRPC)
#   lib/    the plugin, and the shared libraries that a plain Linux lacks; never CUDA's own
#   tests/  every test with the label gpu
#   peer/   the same step in PyTorch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(realpath -m "${1:-build/vitscale-gpu}")
bytes_max=$((50 * 1024 * 1024))

cmake --preset gpu >/dev/null
cmake --build build/gpu --target gpu_bundle

rm -rf "$out" "$out.tar.gz"
mkdir -p "$out"/{bin,lib,tests,peer}
cp build/gpu/bin/{vitscale-bench,vitscale-train,device-ceiling} "$out/bin/"
cp build/gpu/tests/*_gpu_test "$out/tests/"
cp build/gpu/lib/libvitscale_{base,cuda}.so "$out/lib/"
cp tests/bench/peer/{peer,model}.py "$out/peer/"
cp tests/gpu/{run.sh,report.sh,train_gpu_test.sh} "$out/"

# Whatever the loader finds here, except what every glibc and libstdc++ system has (ours are older than theirs) and
# CUDA, which belongs to the driver's machine.
theirs='^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|libcuda|libcudart|libcublas|libcublasLt|libnvrtc|libnvidia.*)[.-]'
find "$out/bin" "$out/tests" "$out/lib" -type f -print0 | xargs -0 -n 1 ldd 2>/dev/null |
  awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u | while read -r name path; do
    if [[ ! $name =~ $theirs && ! -e $out/lib/$name ]]; then cp -L "$path" "$out/lib/$name"; fi
  done
strip --strip-unneeded "$out"/bin/* "$out"/tests/* "$out"/lib/*

# Programs look beside themselves. So must the libraries for what they need; without patchelf run.sh tells the loader.
for file in "$out"/bin/* "$out"/tests/*; do
  if [[ $file != *device-ceiling ]] && ! readelf -d "$file" | grep -q 'ORIGIN/../lib'; then
    echo "bundle.sh: $file has no RUNPATH of \$ORIGIN/../lib" >&2
    exit 1
  fi
done
if command -v patchelf >/dev/null; then patchelf --set-rpath '$ORIGIN' "$out"/lib/*; fi

git describe --always --dirty >"$out/version.txt"
tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
bytes=$(stat -c %s "$out.tar.gz")
echo "$out.tar.gz: $((bytes / 1024 / 1024)) MB, $(du -sm "$out" | cut -f1) MB unpacked, $(ls "$out/tests" | wc -l) test programs"
if ((bytes > bytes_max)); then
  echo "bundle.sh: the archive has $bytes bytes, want at most $bytes_max" >&2
  exit 1
fi
