#!/usr/bin/env bash
# A small job on a card, through vitscale-train: it learns, a resume equals the uninterrupted run bit for bit, and a
# checkpoint of the card goes on on the CPU.
#
#   train_gpu_test.sh [VITSCALE_TRAIN [DEVICE]]     default bin/vitscale-train beside this file, and cuda:0
#
# Exit codes: 0 passed, 1 failed, 77 skipped: no device (fails where VITSCALE_GPU_REQUIRED=1).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ ${1:-} == --* ]] && shift  # what run.sh tells test programs
train=${1:-$here/bin/vitscale-train}
device=${2:-cuda:0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/job.yaml" <<'YAML'
name: card
model: {custom: {patch: 14, width: 64, depth: 2, heads: 2, mlp_width: 128}, image_size: 28, channels: 1, classes: 10}
data: {train: {format: synthetic, synthetic_images: 1024}}
optimizer: {name: adafactor, lr: 1e-2}
schedule: {name: rsqrt, warmup: 1 steps, timescale: 1000 steps, total: 12 steps}
batch: {global: 64, micro: 32}
evals: [{name: val, kind: classify, data: {format: synthetic, synthetic_images: 100}}]
checkpoint: {dir: runs, every: 100 steps}
YAML

# run ID STEPS DEVICE: the job under that id until so many steps are done.
run() {
  "$train" "$folder/job.yaml" --checkpoint-root="$folder" --data-root="$folder" --threads=2 --no-bar --job-id="$1" \
    --set="schedule.total=$2 steps" --set=precision=bf16 --steps-csv="$folder/$1.csv" --device="$3" >"$folder/log" 2>&1
}
fail() {
  echo "[  FAILED  ] train: $1"
  tail -n 5 "$folder/log"
  exit 1
}
# digest ID STEPS: of the state that a checkpoint holds.
digest() { grep -o '"digest": *"[0-9a-f]*"' "$folder/runs/$1"/*step_$(printf %09d "$2")/manifest.json; }

code=0
run whole 12 "$device" || code=$?
if ((code == 78)) && grep -q 'no CUDA device\|not found' "$folder/log" && [[ ${VITSCALE_GPU_REQUIRED:-0} != 1 ]]; then
  echo "SKIPPED: $(tail -n 1 "$folder/log")"
  exit 77
fi
((code == 0)) || fail "exit code $code"
run cut 6 "$device" || fail "the first half ended with $?"
run cut 12 "$device" || fail "the second half ended with $?"
want=$(digest whole 12) || fail "no digest of the whole run"
got=$(digest cut 12) || fail "no digest of the resumed run"
[[ $got == "$want" ]] || fail "6 and 6 steps are not 12: $got, want $want"
run cut 14 cpu || fail "going on on the CPU ended with $?"
awk -F, 'NR == 1 {for (i = 1; i <= NF; i++) if ($i == "loss") c = i; next} NR == 2 {first = $c} {last = $c; n++}
         END {exit !(n == 14 && last < 0.9 * first)}' "$folder/cut.csv" || fail "it does not learn: $(tail -n 1 "$folder/cut.csv")"
echo "[       OK ] train: 12 steps, resumed bit for bit, gone on on the CPU"
