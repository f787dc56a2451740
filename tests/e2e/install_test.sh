#!/usr/bin/env bash
# What `cmake --install` puts below a prefix runs from there, without the build folder.
#
#   install_test.sh CMAKE BUILD      exit codes: 0 passed, 1 failed
set -euo pipefail
cmake=$1 build=$2
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
unset LD_LIBRARY_PATH
fail() { echo "[  FAILED  ] $1"; exit 1; }

"$cmake" --install "$build" --prefix "$prefix/usr" >"$prefix/log" 2>&1 || { cat "$prefix/log"; fail "cmake --install"; }
for program in vitscaled vitscale-worker vitscale-trainer vitscale-train vitscale vitscale-bench; do
  path=$prefix/usr/bin/$program
  "$path" --help >"$prefix/help" 2>&1 || { cat "$prefix/help"; fail "$program --help"; }
  library=$(ldd "$path" | awk '$1 == "libvitscale_base.so" {print $3}')
  [[ $(realpath "$library") == "$prefix/usr/lib/libvitscale_base.so" ]] || fail "$program takes libvitscale_base.so from $library"
done
for file in "$prefix"/usr/bin/* "$prefix"/usr/lib/*; do
  if readelf -d "$file" | grep -qE "R(UN)?PATH.*$(realpath "$build")"; then fail "$(basename "$file") looks into the build folder"; fi
done
for library in "$build"/lib/libvitscale_{base,cuda}.so; do
  [[ ! -e $library ]] || cmp -s "$library" "$prefix/usr/lib/$(basename "$library")" || fail "$(basename "$library") is not there"
done
echo "[       OK ] $(ls "$prefix/usr/bin" | wc -l) programs and $(ls "$prefix/usr/lib" | wc -l) libraries run from another prefix"
