#!/usr/bin/env bash
# What run.sh and bundle.sh do to folders of the user, and what run.sh calls a success. No GPU: programs and nvidia-smi
# are little scripts here. Exit codes: 0 passed, 1 failed.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# is WHAT GOT WANT: they must be equal.
is() {
  if [[ $2 == "$3" ]]; then echo "[       OK ] $1"; else echo "[  FAILED  ] $1: $2, want $3"; failed=1; fi
}
# run NAME=VALUE… ARGUMENT…: run.sh of the made bundle; sets code and output.
run() { output=$(env PATH="$work/path:$PATH" VITSCALE_GPU_PEER=0 "$@" 2>&1); code=$?; }
says() { grep -qF -e "$1" <<<"$output" && echo yes || echo "no: $output"; }
program() { printf '#!/bin/sh\n%s\n' "$2" >"$1"; chmod +x "$1"; }

bundle=$work/bundle
mkdir -p "$bundle"/{bin,tests} "$work/path"
cp "$here"/{run,report}.sh "$bundle/"
program "$work/path/nvidia-smi" 'echo "Card 1, 580.1, 80000 MiB"'
program "$bundle/tests/a_gpu_test" 'echo "[       OK ] A.B (1 ms)"'
program "$bundle/train_gpu_test.sh" 'echo "[       OK ] train"'
program "$bundle/bin/device-ceiling" 'echo "{\"device\": \"Card 1\", \"matmul_tflops\": 100.0, \"copy_gigabytes_per_second\": 10.0}"'
program "$bundle/bin/vitscale-bench" 'echo "{\"batch\": 8, \"flops_per_second\": 5e13, \"images_per_second\": 80, \"step_seconds\": 0.1}"'
rows=VITSCALE_GPU_ROWS=S/16:8

run $rows "$bundle/run.sh" "$work/new"
is "a run in which everything passes is a success" "$code" 0
is "without a sheet of this card there is no MFU" "$(says 'data sheet, for MFU: unknown')" yes
is "and the table has a dash for it" "$(awk '$1 == "S/16" {print $5, $6}' "$work/new/table.txt")" "- 50.0"

echo mine >"$work/new/mine.json"
run $rows "$bundle/run.sh" "$work/new"
is "the next run may have the folder of the last" "$code" 0
is "and leaves the user's file in it" "$(cat "$work/new/mine.json")" mine
run VITSCALE_GPU_ROWS=B/16:8 "$bundle/run.sh" "$work/new"
is "what an earlier run wrote is replaced" "$(cd "$work/new" && echo step-*.json)" "step-1-B16.json step-2-B16.json"

mkdir "$work/theirs"
echo mine >"$work/theirs/notes.txt"
run $rows "$bundle/run.sh" "$work/theirs"
is "a folder with files of others is refused" "$code $(ls -A "$work/theirs")" "2 notes.txt"
run VITSCALE_GPU_SECONDS=4 $rows "$bundle/run.sh" "$work/late"
is "with a device, no time for anything is a failure" "$code" 1
is "and the summary says so" "$(says 'FAILED: no step was timed')" yes
run VITSCALE_GPU_SECONDS=soon "$bundle/run.sh" "$work/late"
is "seconds that are none are refused" "$code" 2

program "$bundle/bin/device-ceiling" 'echo "{\"device\": \"Card 1\", \"matmul_tflops\": 100.0, \"sheet_tflops\": 125.0}"'
run $rows "$bundle/run.sh" "$work/new"
is "MFU is against the sheet of the card" "$(awk '$1 == "S/16" {print $5, $6}' "$work/new/table.txt")" "40.0 50.0"
program "$bundle/tests/a_gpu_test" 'echo "[  FAILED  ] A.B (1 ms)"; exit 1'
run $rows "$bundle/run.sh" "$work/new"
is "a test that fails is a failure of the run" "$code" 1

for script in "$bundle/run.sh" "$here/bundle.sh"; do
  run "$script" --help
  is "$(basename "$script") --help" "$code $(says "$(basename "$script") [")" "0 yes"
  run "$script" --results
  is "$(basename "$script") takes no unknown flag for a folder" "$code" 2
done
run "$here/run.sh"
is "run.sh in the source tree says what to do first" "$code $(says 'run bundle.sh first')" "2 yes"
run "$here/bundle.sh" "$work/theirs"
is "bundle.sh refuses a folder of others" "$code $(cat "$work/theirs/notes.txt")" "2 mine"
echo mine >"$work/thing.tar.gz"
run "$here/bundle.sh" "$work/thing"
is "bundle.sh refuses to replace an archive of others" "$code $(cat "$work/thing.tar.gz")" "2 mine"
run "$here/../run.sh" --help
is "tests/run.sh --help builds nothing" "$code $(says 'Arguments go to ctest')" "0 yes"
exit $failed
