#!/usr/bin/env bash
# From nothing to a trained model: installs packages, builds, starts a coordinator and two CPU workers, trains a
# small ViT on Fashion-MNIST, prints what came out, and stops what it started.
#
#   deploy/quickstart.sh                 everything, with a progress bar
#   deploy/quickstart.sh --json          the result as one JSON object on the last line of standard output
#   deploy/quickstart.sh --keep          leave the daemons running and print how to talk to them
#   deploy/quickstart.sh --set seed=2    change the job; may be repeated
#
# Needs Debian 12 (root, or a user with sudo), two CPU cores, no GPU. Uses free ports on loopback only. Everything
# it writes lies under build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

json=false keep=false submit_flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    --json) json=true ;;
    --keep) keep=true ;;
    --set) [ $# -ge 2 ] || { echo "quickstart: --set needs key=value" >&2; exit 2; }
           submit_flags+=(--set "$2"); shift ;;
    -h|--help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "quickstart: unknown argument \"$1\" (--json, --keep, --set key=value)" >&2; exit 2 ;;
  esac
  shift
done
$json && exec 3>&1 1>&2   # with --json standard output carries the result alone

say() { printf '\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '%s\n' "$*"; }
fail() { echo "quickstart: $*" >&2; exit 1; }

build() {
  mkdir -p build/quickstart
  local log=build/quickstart/configure.log
  cmake --preset release >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "configuring failed, see $log."; }
  # Warnings of the build go to its log; ninja's one progress line is what a person wants to see.
  cmake --build build/release --target vitscaled vitscale-worker vitscale-trainer vitscale vitscale-train vitscale-bench ||
    fail "the build failed; its last lines above say where."
  # This job needs no card, and kernels take nvcc minutes.
  local plugin
  plugin=$(sed -n 's/^-- No CUDA plugin: //p' "$log" | head -n 1)
  if [ -n "$plugin" ]; then
    say "CUDA plugin: not built: $plugin"
  else
    say "CUDA plugin: not needed here; cmake --build build/release builds it ($(sed -n 's/^-- CUDA plugin: //p' "$log" | head -n 1))"
  fi
}

start_coordinator() {
  run=$root/build/quickstart/$(date +%Y%m%d-%H%M%S)
  sockets=$(mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/vitscale-XXXXXX")   # a socket's path must be short
  mkdir -p "$run/checkpoints"
  setsid build/release/bin/vitscaled \
    --state-dir="$run/state" --socket="$sockets/vitscaled.sock" \
    --listen=127.0.0.1:0 --metrics=127.0.0.1:0 \
    --local-workers=2 --local-threads=1 \
    --data-root=/usr/share/datasets --checkpoint-root="$run/checkpoints" \
    --ready-file="$run/ready.json" >"$run/vitscaled.log" 2>&1 &
  coordinator=$!
  for _ in $(seq 300); do
    [ -s "$run/ready.json" ] && return
    kill -0 "$coordinator" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 5 "$run/vitscaled.log" >&2
  fail "the coordinator did not start, see $run/vitscaled.log."
}

stop_coordinator() {
  [ -n "${coordinator:-}" ] || return 0
  kill -TERM "$coordinator" 2>/dev/null || true
  wait "$coordinator" 2>/dev/null || true   # it drains and stops its workers
  rm -rf "${sockets:-}"
  coordinator=
}

deploy/install_packages.sh build data || exit 1
[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] ||
  fail "Fashion-MNIST is not below /usr/share/datasets, where the package dataset-fashion-mnist puts it."

say "Building (build/release)"
build

say "Starting vitscaled and two CPU workers"
start_coordinator
trap stop_coordinator EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export VITSCALE_ADDRESS=unix:$sockets/vitscaled.sock
vitscale=build/release/bin/vitscale

say "Training deploy/jobs/fashion_mnist.yaml"
job=$("$vitscale" submit deploy/jobs/fashion_mnist.yaml "${submit_flags[@]}" -q)
"$vitscale" watch "$job" || fail "job $job did not succeed; its log: $run/vitscaled.log"

result=$("$vitscale" summary "$job" --plot "$run/loss.svg" -o json)
say "Result"
"$vitscale" summary "$job" --plot "$run/loss.svg"
"$vitscale" logs "$job" --steps -o csv >"$run/steps.csv"
cat <<END

  every step       $run/steps.csv   (vitscale logs $job --steps)
  programs         $root/build/release/bin
END

metrics=$(sed -n 's/.*"metrics_address": *"\([^"]*\)".*/\1/p' "$run/ready.json")
if $keep; then
  trap - EXIT
  cat <<END
  talk to it       export VITSCALE_ADDRESS=$VITSCALE_ADDRESS; $vitscale list
  metrics          curl http://$metrics/metrics   (targets for Prometheus: http://$metrics/sd/workers)
  stop it          kill $coordinator && tail --pid=$coordinator -f /dev/null && rm -rf $sockets
END
else
  cat <<END
  metrics          $0 --keep leaves the daemons running and prints where /metrics is
END
  stop_coordinator
fi
if $json; then printf '%s\n' "$result" >&3; fi
