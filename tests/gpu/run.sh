#!/usr/bin/env bash
# Tests and times the engine on this machine's first GPU; needs a driver and CUDA's runtime libraries, nothing else.
#
#   ./run.sh [RESULTS]     RESULTS: a folder for logs, results.json and table.txt; default ./results
#
# RESULTS must be new, empty, or from an earlier run, whose files are replaced; others there are left alone.
#
# Every part has its own time limit, so that one that hangs does not cost the rest; after VITSCALE_GPU_SECONDS (340)
# nothing new begins. Without a device every part says so. Exit codes: 0; 1 when something failed, or when there is a
# device and no test or no step came to its turn; 2 when it cannot begin.
#
#   VITSCALE_GPU_ROWS     "S/16:512 B/16:256": variants and batches instead of the table below
#   VITSCALE_GPU_TESTS    a pattern of test programs; "none" runs none
#   VITSCALE_GPU_PEER     0 leaves the peer out
set -uo pipefail
fail() { echo "run.sh: $1" >&2; exit 2; }
case "${1:-}" in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  -*) fail "unknown argument \"$1\", want [RESULTS] or --help" ;;
esac
(($# <= 1)) || fail "$# arguments, want one: [RESULTS]"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ -d $here/bin ]] || fail "no bin/ here ($here): run bundle.sh first, then run.sh of the bundle"
seconds_max=${VITSCALE_GPU_SECONDS:-340}
[[ $seconds_max =~ ^[1-9][0-9]{0,5}$ ]] || fail "VITSCALE_GPU_SECONDS is \"$seconds_max\", want whole seconds from 1"
rows=${VITSCALE_GPU_ROWS:-Ti/16:1024 S/16:512 B/16:256 L/16:128 g/14:32}
for row in $rows; do [[ $row =~ ^[A-Za-z]+/[0-9]+:[1-9][0-9]*$ ]] || fail "VITSCALE_GPU_ROWS has \"$row\", want like S/16:512"; done
compile_rows=${VITSCALE_GPU_ROWS:-B/16:256 S/16:512 L/16:128}
tests=${VITSCALE_GPU_TESTS:-*}
jobs=("$here/train_gpu_test.sh")
[[ $tests == none ]] && jobs=()

# Every name that this run may write stands in .written before anything is: that, no more, the next run removes.
results=$(realpath -m -- "${1:-$here/results}")
written=$results/.written
mkdir -p -- "$results" || fail "$results: want a folder that can be written"
if [[ ! -f $written && -n $(ls -A "$results") ]]; then
  fail "$results has files that no run wrote; want a new folder, an empty one, or one of an earlier run"
fi
[[ -f $written ]] && while IFS= read -r name; do
  [[ $name == */* || -z $name ]] || rm -f -- "${results:?}/$name"
done <"$written"
{
  printf '%s\n' {ceiling,results}.json {ceiling,bench,peer}.log table.txt
  for program in "$here"/tests/$tests "${jobs[@]}"; do
    name=$(basename "$program")
    printf '%s\n' "test-$name.json" "$name.log"
  done
  for row in $rows $compile_rows; do
    key=${row%:*}
    printf '%s\n' {step-1,step-2,peer-eager,peer-compile}-"${key//\//}".{json,log}
  done
} >"$written" || fail "$written: cannot be written"
tests_until=$((seconds_max / 2))
SECONDS=0
failures=0 late=0 tests_run=0 steps_run=0

# CUDA's libraries: the toolkit's, or those that came with PyTorch. For our programs alone.
cuda_libraries() {
  local nvcc
  nvcc=$(command -v nvcc || true)
  [[ -n $nvcc ]] && echo "$(dirname "$(realpath "$nvcc")")/../lib64"
  for folder in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib; do [[ -d $folder ]] && echo $folder; done
  python3 - 2>/dev/null <<'PY'
import glob, importlib.util
for name in ("nvidia",):
    spec = importlib.util.find_spec(name)
    for root in (spec.submodule_search_locations if spec else []):
        for folder in sorted(glob.glob(f"{root}/*/lib")):
            print(folder)
PY
}
library_path=$here/lib:$(cuda_libraries | paste -sd:)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# ours LIMIT LOG command…: with a time limit; stdout and stderr to the log.
ours() {
  local limit=$1 log=$2
  shift 2
  LD_LIBRARY_PATH=$library_path timeout -k 5 "$limit" "$@" >"$log" 2>&1
}
# limit_of LIMIT [UNTIL]: LIMIT or what is left until UNTIL, whichever is less; fails when that is not worth a start.
# late WHAT: counts and says that.
limit_of() {
  local left=$((${2:-$seconds_max} - SECONDS))
  ((left < 5)) && return 1
  echo $(($1 < left ? $1 : left))
}
late() { late=$((late + 1)); echo "$1: no time left"; }
last_line() { tail -n 1 "$1" 2>/dev/null | tr -d '"\\' | cut -c1-200; }

device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
if [[ -n $device ]]; then export VITSCALE_GPU_REQUIRED=1; fi
echo "vitscale $(cat "$here/version.txt" 2>/dev/null) on ${device:-a machine without a CUDA device}"

# ---- tests -------------------------------------------------------------------------------------------------------
for program in "$here"/tests/$tests "${jobs[@]}"; do
  [[ -x $program ]] || continue
  name=$(basename "$program")
  if ! limit=$(limit_of 45 $tests_until); then
    late "test $name"
    echo "{\"test\": \"$name\", \"outcome\": \"no time left\"}" >"$results/test-$name.json"
    continue
  fi
  tests_run=$((tests_run + 1))
  log=$results/$name.log
  begin=$SECONDS
  ours "$limit" "$log" "$program" --gtest_brief=0
  code=$?
  case $code in
    0) outcome=passed ;;
    77) outcome=skipped ;;
    124 | 137) outcome="over $limit s" ;;
    *) outcome=failed ;;
  esac
  if [[ $outcome != passed && $outcome != skipped ]]; then failures=$((failures + 1)); fi
  passed=$(grep -c '^\[       OK \]' "$log")
  failed=$(grep '^\[  FAILED  \].*(.* ms)' "$log" | grep -vc 'tests, listed')
  why=
  [[ $outcome != passed ]] && why=$( (grep -m 1 -E 'FAILED:|SKIPPED:|Failure|^cuda|error' "$log" || true) | tr -d '"\\' | cut -c1-160)
  printf '{"test": "%s", "outcome": "%s", "passed": %d, "failed": %d, "seconds": %d, "why": "%s"}\n' \
    "$name" "$outcome" "$passed" "$failed" $((SECONDS - begin)) "$why" | tee "$results/test-$name.json"
done

# ---- ceiling -----------------------------------------------------------------------------------------------------
peak=()
if limit=$(limit_of 40); then
  if ours "$limit" "$results/ceiling.log" "$here/bin/device-ceiling"; then
    tail -n 1 "$results/ceiling.log" >"$results/ceiling.json"
    cat "$results/ceiling.json"
    tflops=$(grep -o '"matmul_tflops": [0-9.]*' "$results/ceiling.json" | cut -d' ' -f2)
    gigabytes=$(grep -o '"copy_gigabytes_per_second": [0-9.]*' "$results/ceiling.json" | cut -d' ' -f2)
    peak=(--peak-tflops "$tflops" --peak-gbs "$gigabytes")
  else
    echo "ceiling: $(last_line "$results/ceiling.log")"
    [[ -n $device ]] && failures=$((failures + 1))
  fi
else
  late ceiling
fi

# ---- steps, ours and the peer in turns -----------------------------------------------------------------------------
has_torch=0
if [[ -n $device && ${VITSCALE_GPU_PEER:-1} == 1 ]] && timeout 60 python3 -c 'import torch' 2>/dev/null; then has_torch=1; fi

# bench ROUND VARIANT BATCH [RETRIES]: ours; with half the batch where that does not fit.
bench() {
  local file=$results/step-$1-${2//\//}.json limit
  limit=$(limit_of 60) || { late "step $2"; return 0; }
  local more=(--no-roofline)
  [[ $1 == 1 ]] && more=()
  if ours "$limit" "$results/bench.log" "$here/bin/vitscale-bench" step --device cuda:0 --variant "$2" --batch "$3" \
    --steps 10 --json "${peak[@]}" "${more[@]}"; then
    tail -n 1 "$results/bench.log" >"$file"
    steps_run=$((steps_run + 1))
  else
    local code=$?
    cp "$results/bench.log" "${file%.json}.log"
    echo "step $2 batch $3: exit $code: $(last_line "$results/bench.log")"
    if grep -qiE 'out of memory|bytes .* of device memory' "$results/bench.log" && ((${4:-2} > 0)); then
      bench "$1" "$2" $(($3 / 2)) $((${4:-2} - 1))
      return
    fi
    [[ -n $device ]] && failures=$((failures + 1))
  fi
}
# peer MODE VARIANT BATCH
peer() {
  ((has_torch)) || return 0
  local file=$results/peer-$1-${2//\//}.json limit
  limit=$(limit_of 60) || { late "peer $2 $1"; return 0; }
  if timeout -k 5 "$limit" python3 "$here/peer/peer.py" --device cuda --variant "$2" --batch "$3" --mode "$1" \
    --threads 8 --steps 10 >"$results/peer.log" 2>&1; then
    tail -n 1 "$results/peer.log" >"$file"
  else
    cp "$results/peer.log" "${file%.json}.log"
    echo "peer $2 $1: $(last_line "$results/peer.log")"
  fi
}
# Every row once before any gets more.
for row in $rows; do bench 1 "${row%:*}" "${row#*:}"; done
for row in $rows; do
  [[ -n $device ]] || break
  peer eager "${row%:*}" "${row#*:}"
  bench 2 "${row%:*}" "${row#*:}"
done
for row in $compile_rows; do peer compile "${row%:*}" "${row#*:}"; done

# ---- report ------------------------------------------------------------------------------------------------------
# With a device, nothing tested or nothing timed is no success, whatever the reason.
nothing=()
if [[ -n $device && $tests != none ]] && ((tests_run == 0)); then nothing+=("no test ran"); fi
if [[ -n $device ]] && ((steps_run == 0)); then nothing+=("no step was timed"); fi
failures=$((failures + ${#nothing[@]}))
{
  "$here/report.sh" "$results" "${device:-}" "$rows" $SECONDS
  ((late > 0)) && echo "$late parts had no time left of VITSCALE_GPU_SECONDS=$seconds_max"
  for what in "${nothing[@]}"; do echo "FAILED: $what, though there is a device"; done
  echo "failures: $failures"
} | tee "$results/table.txt"
exit $((failures > 0 ? 1 : 0))
