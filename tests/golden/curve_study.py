"""Trains the Fashion-MNIST job with flax and optax from our initial weights, on our batches and flips, and compares.

    ninja -C build/dev golden_curve_dump
    python tests/golden/curve_study.py --program build/dev/tests/golden_curve_dump [--check]

The program writes initial weights, the samples and flips of 200 steps, and the losses of our f32 run. This script reads the
IDX files itself, builds the model (vit_flax.py) and the optimizer chain (big_vision_optimizer.py) and trains once from those
weights and five times from weights of which each was moved to a neighbouring f32 value, up or down at random. Bounds:

    steps 1 to 50    |ours / flax - 1| <= 1e-4
    steps 51 to 200  |ours - flax| <= 3 * envelope, envelope(k) = largest |moved - flax| of the five runs up to step k

Writes curve_study.md and data/curve.safetensors, which curve_golden_test.cc reads; exits with 1 where a bound is broken.
"""

import datetime
import gzip
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from safetensors.numpy import load_file

import big_vision_optimizer as bv
import golden_file
import vit_flax

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path("/usr/share/datasets")
STEPS, MOVED_RUNS = 200, 5
FIRST, FIRST_BOUND, ENVELOPES = 50, 1e-4, 3


def read_idx(path):
    data = gzip.decompress(path.read_bytes())
    dims = data[3]
    shape = np.frombuffer(data, ">u4", dims, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def number(length, steps_per_epoch):
    """"200 steps" or "5 epochs" in steps."""
    value, unit = str(length).split()
    return int(value) * (steps_per_epoch if unit.startswith("epoch") else 1)


class Job:
    def __init__(self, spec, images):
        m, s, o = spec["model"], spec["schedule"], spec["optimizer"]
        c = m["custom"]
        per_epoch = images // spec["batch"]["global"]
        self.batch, self.classes, self.loss = spec["batch"]["global"], m["classes"], m["loss"]
        self.model = vit_flax.ViT(patch=c["patch"], width=c["width"], depth=c["depth"], heads=c["heads"],
                                  mlp_width=c["mlp_width"], classes=m["classes"], pool=m["pool"])
        self.lr = float(o["lr"])
        self.decay = {k: float(v) * self.lr for k, v in o["weight_decay"].items()} | {"none": 0.0}
        self.optimizer = o["name"]
        self.lengths = {k: number(s[k], per_epoch) for k in ("warmup", "timescale", "cooldown", "total")}

    def schedule(self, k):
        """rsqrt of big_vision utils.create_learning_rate_schedule."""
        n = self.lengths
        k = jnp.asarray(k, jnp.float32)
        base = 1 / jnp.sqrt(1 + jnp.maximum(k - n["warmup"], 0) / n["timescale"])
        return base * jnp.minimum(1, k / n["warmup"]) * jnp.minimum(1, (n["total"] - k) / n["cooldown"])


def train(job, params, images, labels, run):
    """The losses of STEPS steps."""
    decay = {name: job.decay[bv.decay_group(name)] for name in params}
    tx = bv.make(job.optimizer, job.lr, decay, job.schedule)
    state = tx.init(params)

    @jax.jit
    def step(params, state, batch, targets):
        (loss, _), gradients = vit_flax.value_and_gradients(job.model, params, batch, targets, job.loss)
        gradients = jax.tree.map(lambda g: g / job.batch, gradients)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss / job.batch

    losses = []
    for samples, flips in zip(run["samples"], run["flips"]):
        batch = images[samples]
        batch = np.where(flips[:, None, None] != 0, batch[:, :, ::-1], batch)[..., None]
        targets = np.eye(job.classes, dtype=np.float32)[labels[samples]]
        params, state, loss = step(params, state, batch, targets)
        losses.append(float(loss))
    return np.array(losses, np.float64)


def moved(params, seed):
    """Every weight one ulp up or down; zeros stay."""
    random = np.random.default_rng(seed)
    def move(p):
        toward = np.where(random.integers(0, 2, p.shape) == 1, np.inf, -np.inf).astype(np.float32)
        return np.where(p == 0, p, np.nextafter(p, toward))
    return {name: move(p) for name, p in params.items()}


def table(ours, flax, envelope):
    rows = ["| steps | largest relative difference | largest difference of the loss | 3 x envelope there | worst quotient |",
            "|---|---|---|---|---|"]
    for first, last in ((1, 10), (11, 50), (51, 100), (101, 150), (151, 200)):
        s = slice(first - 1, last)
        relative, difference = np.abs(ours[s] / flax[s] - 1), np.abs(ours[s] - flax[s])
        at = difference.argmax()
        row = f"| {first}-{last} | {relative.max():.2e} | {difference.max():.2e} | "
        if last > FIRST:
            quotient = (difference / (ENVELOPES * envelope[s])).max()
            row += f"{ENVELOPES * envelope[s][at]:.2e} | {quotient:.2f} |"
        rows.append(row if last > FIRST else row + "- | - |")
    return rows


def report(ours, flax, runs, envelope, seconds):
    per_step = np.abs(runs - flax).max(axis=0)
    outside = int((np.abs(ours - flax)[FIRST:] > ENVELOPES * per_step[FIRST:]).sum())
    versions = ", ".join(f"{k} {v}" for k, v in golden_file.versions().items())
    points = ", ".join(f"step {k}: {ours[k - 1]:.6f} and {flax[k - 1]:.6f}" for k in (1, 10, 50, 100, 200))
    return "\n".join([
        "# The Fashion-MNIST job against flax and optax", "",
        "`deploy/jobs/fashion_mnist.yaml` in f32 on one rank, the first 200 steps: our engine, and an independent run of the",
        "same model in flax with optax from the same initial weights, batches and flips. Five more flax runs begin with every",
        "weight one ulp up or down at random; the envelope at step k is the largest distance of their losses from the unmoved",
        "run up to step k.", "",
        *table(ours, flax, envelope), "",
        f"Bounds: relative {FIRST_BOUND:g} for steps 1-{FIRST}, {ENVELOPES} envelopes for steps {FIRST + 1}-{STEPS}. With the envelope of each single",
        f"step instead of that up to the step, {outside} of {STEPS - FIRST} steps lie outside of {ENVELOPES} of it. Losses, ours and flax:",
        f"{points}.", "",
        f"{datetime.date.today()}, {platform.processor() or platform.machine()} with {cpu()}, {versions}; {seconds:.0f} s.", "",
        "```", "ninja -C build/dev golden_curve_dump",
        "python tests/golden/curve_study.py --program build/dev/tests/golden_curve_dump", "```", ""])


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((l.split(":", 1)[1].strip() for l in lines if l.startswith("model name")), "an unknown CPU")


def dump(program):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "run.safetensors"
        subprocess.run([program, path, str(STEPS)], check=True)
        return load_file(path)


def main():
    args = golden_file.arguments(__doc__, lambda p: p.add_argument("--program", required=True))
    began = time.monotonic()
    run = dump(args.program)
    spec = yaml.safe_load((HERE.parents[1] / "deploy/jobs/fashion_mnist.yaml").read_text())
    images = read_idx(ROOT / spec["data"]["train"]["images"])
    labels = read_idx(ROOT / spec["data"]["train"]["labels"])
    job = Job(spec, len(images))
    params = {name.removeprefix("params/"): value for name, value in run.items() if name.startswith("params/")}
    flax = train(job, params, images, labels, run)
    ours = run["losses"]
    print(f"unmoved run after {time.monotonic() - began:.0f} s: largest relative difference, steps 1-50: "
          f"{np.abs(ours / flax - 1)[:FIRST].max():.2e}, 51-200: {np.abs(ours / flax - 1)[FIRST:].max():.2e}", flush=True)
    runs = np.stack([train(job, moved(params, seed), images, labels, run) for seed in range(MOVED_RUNS)])
    envelope = np.maximum.accumulate(np.abs(runs - flax).max(axis=0))
    text = report(ours, flax, runs, envelope, time.monotonic() - began)
    print(text)
    if not args.check:
        (HERE / "curve_study.md").write_text(text)
    magnitude = sum(np.abs(p.astype(np.float64)).sum() for p in params.values())
    tensors = {"flax_losses": flax, "moved_losses": runs, "parameter_magnitude": np.array([magnitude])}
    late = np.abs(ours - flax)[FIRST:] <= ENVELOPES * envelope[FIRST:]
    held = np.abs(ours / flax - 1)[:FIRST].max() <= FIRST_BOUND and late.all()
    # On another CPU every run goes its own way within the envelope.
    golden_file.finish(args, "curve", tensors, tolerance={np.dtype(np.float64): 1e-2})
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
