#!/usr/bin/env bash
# What run.sh left in RESULTS as results.json and, on stdout, one table. No tools but those of coreutils, grep and awk.
#
#   ./report.sh RESULTS "DEVICE, DRIVER, MEMORY" "VARIANT:BATCH …" SECONDS
set -uo pipefail
results=$1 device=$2 rows=$3 seconds=$4

# number FILE KEY: a number of the outer object; empty if it is not there.
number() { grep -o "\"$2\": *-\?[0-9.e+-]*" "$1" 2>/dev/null | head -n 1 | sed 's/.*: *//'; }
# best KEY FILE…: the greatest.
best() {
  local key=$1
  shift
  for file in "$@"; do number "$file" "$key"; done | sort -g | tail -n 1
}
list() { cat "$@" 2>/dev/null | paste -sd,; }
# format EXPRESSION: awk's value, or "-" where something is missing.
ratio() { awk -v a="${1:-0}" -v b="${2:-0}" -v format="$3" 'BEGIN { if (a > 0 && b > 0) printf format, a / b; else printf "-" }'; }

{
  printf '{"device": "%s", "seconds": %d,\n"tests": [%s],\n' "$device" "$seconds" "$(list "$results"/test-*.json)"
  printf '"ceiling": %s,\n' "$(cat "$results/ceiling.json" 2>/dev/null || echo null)"
  printf '"steps": [%s],\n' "$(list "$results"/step-*.json)"
  printf '"peer": [%s]}\n' "$(list "$results"/peer-*.json)"
} >"$results/results.json"

echo
awk -F'"' '/"test"/ { n[$8]++ } END { printf "tests:"; for (o in n) printf " %d programs %s", n[o], o; print "" }' \
  /dev/null "$results"/test-*.json 2>/dev/null
awk -F'[:,]' '/"test"/ { p += $6; f += $8 } END { printf "       %d tests passed, %d failed\n", p, f }' /dev/null "$results"/test-*.json 2>/dev/null
grep -h '"failed", \|"over ' "$results"/test-*.json 2>/dev/null
ceiling=$(number "$results/ceiling.json" matmul_tflops)
copy=$(number "$results/ceiling.json" copy_gigabytes_per_second)
sheet=$(number "$results/ceiling.json" sheet_tflops) # of this card, where device-ceiling knows it; MFU is against this
echo "ceiling: ${ceiling:--} TFLOP/s (cuBLASLt, 8192 cubed, bf16), ${copy:--} GB/s (copy); data sheet, for MFU: ${sheet:-unknown}${sheet:+ TFLOP/s}"
printf '%-7s %6s %9s %7s %6s %9s %8s %8s %9s %9s %6s\n' model batch ms/step img/s MFU% ceiling% GB plan_GB eager_img/s compile ratio
for row in $rows; do
  variant=${row%:*} key=${row%:*}
  key=${key//\//}
  first=$results/step-1-$key.json
  images=$(best images_per_second "$results"/step-[12]-"$key".json)
  flops=$(best flops_per_second "$results"/step-[12]-"$key".json)
  eager=$(number "$results/peer-eager-$key.json" images_per_second)
  compile=$(number "$results/peer-compile-$key.json" images_per_second)
  peer=$(best images_per_second "$results"/peer-*-"$key".json)
  printf '%-7s %6s %9s %7s %6s %9s %8s %8s %9s %9s %6s\n' "$variant" "$(batch=$(number "$first" batch); echo "${batch:-${row#*:}}")" \
    "$(ratio "$(number "$first" step_seconds)" 0.001 %.2f)" "$(ratio "$images" 1 %.0f)" \
    "$(ratio "$flops" "${sheet:-0}e10" %.1f)" "$(ratio "$flops" "${ceiling:-0}e10" %.1f)" \
    "$(ratio "$(number "$first" device_memory_bytes)" 1e9 %.1f)" "$(ratio "$(number "$first" plan_memory_bytes)" 1e9 %.1f)" \
    "$(ratio "$eager" 1 %.0f)" "$(ratio "$compile" 1 %.0f)" "$(ratio "$images" "$peer" %.2f)"
done
echo "$seconds s in all; ${device:-no CUDA device}; logs and results.json in $results"
