#!/usr/bin/env python3
"""Ours and PyTorch in turns on this machine, and the table of ratios.

    compare.py --rows s16-bf16,ti16-bf16 --bench build/release/bin/vitscale-bench --python VENV/bin/python

A round is ceiling, one side, ceiling, the other side, ceiling; sides change places from round to round. A round in
which the ceiling moved by more than --moves is kept in the file but does not count, and is repeated. Before the first
round of a row every setting of PyTorch runs once, and the fastest one is the peer. All results go to --out, one JSON
object a line, as soon as they are there: call it again and it goes on where it stopped. Other binaries, versions or
flags start anew in the same file. --table prints what the file has and measures nothing.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Row:
    variant: str  # of model.py
    precision: str
    batch: int
    ours: tuple  # flags that say the same shape to vitscale-bench


SMALL = tuple("--patch 4 --width 128 --depth 4 --heads 4 --mlp-width 512 --image-size 28 --channels 1".split())
ROWS = {
    "s16-bf16": Row("S/16", "bf16", 32, ("--variant", "S/16")),
    "ti16-bf16": Row("Ti/16", "bf16", 32, ("--variant", "Ti/16")),
    "s16-f32": Row("S/16", "f32", 32, ("--variant", "S/16")),
    "small-bf16": Row("small", "bf16", 256, SMALL),
}

# glibc gives large blocks back to the system at every step unless told not to; huge pages spare page faults.
HEAP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
SETTINGS = {  # name: mode of peer.py, environment
    "eager": ("eager", {}),
    "eager+heap": ("eager", HEAP),
    "compile": ("compile", {}),
    "compile+heap": ("compile", HEAP),
}


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated; default: all of %(default)s")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="of PyTorch, to choose from: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="that count, for each row")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each side in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--moves", type=float, default=0.05, help="of the ceiling, within a round")
    parser.add_argument("--tries", type=int, default=20, help="rounds at most for each row in this call")
    parser.add_argument("--bench", default="build/release/bin/vitscale-bench")
    parser.add_argument("--python", default=sys.executable, help="of the environment that has torch")
    parser.add_argument("--peer", default=str(HERE / "peer.py"))
    parser.add_argument("--out", default="peer.jsonl")
    parser.add_argument("--table", action="store_true", help="only print")
    args = parser.parse_args(argv)
    args.rows, args.settings = args.rows.split(","), args.settings.split(",")
    for flag, given, known in (("--rows", args.rows, ROWS), ("--settings", args.settings, SETTINGS)):
        for name in given:
            if name not in known:
                parser.error(f"{flag}: was {name!r}, wanted some of {', '.join(known)}")
    for flag in ("rounds", "steps", "threads", "tries"):
        if getattr(args, flag) < 1:
            parser.error(f"--{flag}: was {getattr(args, flag)}, wanted at least 1")
    return args


# ---- running ------------------------------------------------------------------


def run(command, extra=None):
    """The JSON object that a command prints. Variables of other people's tuning are taken out."""
    foreign = ("OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "GLIBC_TUNABLES", "TORCHINDUCTOR_",
               "LD_PRELOAD")  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment.update(extra or {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"compare.py: exit code {done.returncode} of {' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ceiling(args, row):
    command = [args.bench, "ceiling", "--precision", row.precision, "--threads", str(args.threads), "--json"]
    return run(command)["ceiling_flops_per_second"]


def common(args, row):
    flags = {"precision": row.precision, "batch": row.batch, "threads": args.threads, "steps": args.steps}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def ours(args, row):
    return run([args.bench, "step", *row.ours, *common(args, row), "--no-ceiling", "--no-roofline", "--json"])


def peer(args, row, setting):
    mode, environment = SETTINGS[setting]
    environment = environment | {"OMP_NUM_THREADS": str(args.threads)}
    command = [args.python, args.peer, "--variant", row.variant, *common(args, row), "--mode", mode]
    return run(command, environment)


def check_same(name, us, them):
    for key in ("parameters", "train_gflop_per_image"):
        if abs(us[key] - them[key]) > 1e-9 * abs(us[key]):
            sys.exit(f"compare.py: row {name}: {key} of ours is {us[key]}, of the peer {them[key]}; want the same")


def measure_round(args, row, setting, ours_first):
    """Three ceilings around two sides; each side's own ceiling is the mean of its neighbours."""
    sides = {"ours": lambda: ours(args, row), "peer": lambda: peer(args, row, setting)}
    order = ["ours", "peer"] if ours_first else ["peer", "ours"]
    ceilings = [ceiling(args, row)]
    record = {}
    for side in order:
        record[side] = sides[side]()
        ceilings.append(ceiling(args, row))
    for i, side in enumerate(order):
        record[side]["ceiling_share"] = 2 * record[side]["flops_per_second"] / (ceilings[i] + ceilings[i + 1])
    record["ceilings"] = ceilings
    record["counts"] = max(ceilings) - min(ceilings) <= args.moves * max(ceilings)
    return record


# ---- the file -----------------------------------------------------------------


def key_of(args):
    """Results are comparable when all of this is the same."""
    digest = hashlib.sha256()
    files = [args.bench, args.peer] + sorted(str(p) for p in HERE.glob("model.py"))
    for path in files:
        digest.update(pathlib.Path(path).read_bytes())
    digest.update(json.dumps([args.python, args.threads, args.steps, args.moves, args.settings]).encode())
    return digest.hexdigest()[:16]


def load(path, key):
    """Records of this key. A last line that was cut short by a kill is passed over."""
    records = []
    if os.path.exists(path):
        for line in pathlib.Path(path).read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record.get("key") == key:
                records.append(record)
    return records


def keep(args, records, record):
    record |= {"key": args.key, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    records.append(record)
    text = pathlib.Path(args.out)
    cut_short = text.exists() and text.stat().st_size > 0 and not text.read_bytes().endswith(b"\n")
    with open(args.out, "a", encoding="utf-8") as out:
        out.write("\n" * cut_short + json.dumps(record) + "\n")


def select(records, kind, name):
    return [r for r in records if r["kind"] == kind and r["row"] == name]


def best_setting(args, records, name):
    for setting in args.settings:
        if not any(r["setting"] == setting for r in select(records, "tune", name)):
            print(f"{name}: trying {setting}", file=sys.stderr, flush=True)
            result = peer(args, ROWS[name], setting)
            keep(args, records, {"kind": "tune", "row": name, "setting": setting, "peer": result})
    tuned = [r for r in select(records, "tune", name) if r["setting"] in args.settings]
    return max(tuned, key=lambda r: r["peer"]["images_per_second"])["setting"]


def counting(records, name):
    return [r for r in select(records, "round", name) if r["counts"]]


def measure_row(args, records, name):
    for attempt in range(args.tries):
        done = len(counting(records, name))
        if done >= args.rounds:
            return
        setting = best_setting(args, records, name)
        print(f"{name}: round {done + 1} of {args.rounds}, try {attempt + 1}", file=sys.stderr, flush=True)
        record = measure_round(args, ROWS[name], setting, ours_first=len(select(records, "round", name)) % 2 == 0)
        check_same(name, record["ours"], record["peer"])
        keep(args, records, {"kind": "round", "row": name, "setting": setting} | record)
        if not record["counts"]:
            moved = (1 - min(record["ceilings"]) / max(record["ceilings"])) * 100
            print(f"{name}: the ceiling moved by {moved:.1f} %: once more", file=sys.stderr, flush=True)
    if len(counting(records, name)) < args.rounds:
        print(f"{name}: only {len(counting(records, name))} of {args.rounds} rounds count", file=sys.stderr)


# ---- the table ----------------------------------------------------------------


def spread(values, form):
    """median (least–most)"""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def line_of(records, name):
    rounds = counting(records, name)
    if not rounds:
        return [name, "0", "no round that counts"] + [""] * 6
    us, them = [r["ours"] for r in rounds], [r["peer"] for r in rounds]

    def each(side, key):
        return [r[key] for r in side]

    def ratios(key):
        return [a[key] / b[key] for a, b in zip(us, them)]

    return [
        name,
        str(len(rounds)),
        spread(each(us, "images_per_second"), ".4g"),
        spread([100 * x for x in each(us, "ceiling_share")], ".1f"),
        spread(each(them, "images_per_second"), ".4g"),
        spread([100 * x for x in each(them, "ceiling_share")], ".1f"),
        spread(ratios("images_per_second"), ".2f"),
        f"{max(each(us, 'peak_rss_bytes')) / 1e9:.2f} / {statistics.median(each(them, 'peak_rss_bytes')) / 1e9:.2f}"
        f" = {statistics.median(ratios('peak_rss_bytes')):.2f}",
        ", ".join(sorted({r["setting"] for r in rounds})),
    ]


HEAD = ["row", "rounds", "ours images/s", "% of ceiling", "peer images/s", "% of ceiling", "ratio", "peak GB",
        "peer is"]  # fmt: skip


def table(records, names):
    lines = [HEAD, ["---"] * len(HEAD)] + [line_of(records, name) for name in names]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv=None):
    args = arguments(argv)
    for path in (args.bench, args.peer):
        if not os.path.exists(path):
            sys.exit(f"compare.py: {path} is not there")
    args.key = key_of(args)
    records = load(args.out, args.key)
    if not args.table:
        for name in args.rows:
            measure_row(args, records, name)
    print(table(records, args.rows))
    return 0 if all(len(counting(records, name)) >= args.rounds for name in args.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
