#!/usr/bin/env bash
# Packs what a machine with a GPU needs to test and time the engine, and nothing to build it.
#
#   tests/gpu/bundle.sh [FOLDER]      FOLDER and FOLDER.tar.gz; default build/vitscale-gpu
#
# FOLDER must be new, empty, or an earlier bundle; other files in it are neither touched nor packed. Needs nvcc of CUDA 13
# and the headers of NCCL and cuDNN 9. There: tar xzf vitscale-gpu.tar.gz && vitscale-gpu/run.sh
#
#   bin/    vitscale-bench, vitscale-train, device-ceiling (release, without gRPC)
#   lib/    the plugin, and the shared libraries that a plain Linux lacks; never CUDA's own
#   tests/  every test with the label gpu
#   peer/   the same step in PyTorch
set -euo pipefail
fail() { echo "bundle.sh: $1" >&2; exit "${2:-1}"; }
case "${1:-}" in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  -*) fail "unknown argument \"$1\", want [FOLDER] or --help" 2 ;;
esac
(($# <= 1)) || fail "$# arguments, want one: [FOLDER]" 2
tree=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
out=$(realpath -m -- "${1:-$tree/build/vitscale-gpu}")
cd "$tree"
bytes_max=$((50 * 1024 * 1024))
name=$(basename "$out")

# What a bundle consists of: only that is replaced and packed. version.txt beside run.sh is how one is known.
folders=(bin lib tests peer)
scripts=(run.sh report.sh train_gpu_test.sh)
parts=("${folders[@]}" "${scripts[@]}" version.txt)
is_bundle() { [[ -f $out/version.txt && -f $out/run.sh && -f $out/report.sh ]]; }
is_archive() { (($(tar -tzf "$out.tar.gz" 2>/dev/null | grep -cxF -e "$name/version.txt" -e "$name/run.sh") == 2)); }
if [[ -e $out ]] && ! is_bundle && [[ ! -d $out || -n $(ls -A "$out") ]]; then
  fail "$out is there and no bundle; want a new folder, an empty one, or an earlier bundle" 2
fi
if [[ -e $out.tar.gz ]] && ! is_archive; then fail "$out.tar.gz is there and no archive of a bundle" 2; fi

cmake --preset gpu >/dev/null
cmake --build build/gpu --target gpu_bundle

for part in "${parts[@]}"; do rm -rf "${out:?}/$part"; done
rm -f "$out.tar.gz"
mkdir -p "${folders[@]/#/$out/}"
cp "${scripts[@]/#/tests/gpu/}" "$out/"
(git describe --always --dirty 2>/dev/null || echo unknown) >"$out/version.txt"
cp build/gpu/bin/{vitscale-bench,vitscale-train,device-ceiling} "$out/bin/"
cp build/gpu/tests/*_gpu_test "$out/tests/"
cp build/gpu/lib/libvitscale_{base,cuda}.so "$out/lib/"
cp tests/bench/peer/{peer,model}.py "$out/peer/"

# Whatever the loader finds here, except what every glibc and libstdc++ system has (ours are older than theirs) and
# CUDA, which belongs to the driver's machine.
theirs='^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|libcuda|libcudart|libcublas|libcublasLt|libnvrtc|libnvidia.*)[.-]'
find "$out"/{bin,tests,lib} -type f -print0 | xargs -0 -n 1 ldd 2>/dev/null |
  awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u | while read -r library path; do
    if [[ ! $library =~ $theirs && ! -e $out/lib/$library ]]; then cp -L "$path" "$out/lib/$library"; fi
  done
strip --strip-unneeded "$out"/bin/* "$out"/tests/* "$out"/lib/*

# Programs look beside themselves. So must the libraries for what they need; without patchelf run.sh tells the loader.
for file in "$out"/bin/* "$out"/tests/*; do
  if [[ $file != *device-ceiling ]] && ! readelf -d "$file" | grep -q 'ORIGIN/../lib'; then
    fail "$file has no RUNPATH of \$ORIGIN/../lib"
  fi
done
if command -v patchelf >/dev/null; then patchelf --set-rpath '$ORIGIN' "$out"/lib/*; fi

tar -C "$(dirname "$out")" -czf "$out.tar.gz" "${parts[@]/#/$name/}"
bytes=$(stat -c %s "$out.tar.gz")
echo "$out.tar.gz: $((bytes / 1024 / 1024)) MB, $(du -cm "${parts[@]/#/$out/}" | tail -n 1 | cut -f1) MB unpacked, $(ls "$out/tests" | wc -l) test programs"
((bytes <= bytes_max)) || fail "the archive has $bytes bytes, want at most $bytes_max"
