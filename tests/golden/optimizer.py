"""20 steps of Adafactor, AdamW and SGD from given gradients, for tensors of every kind that a Vision Transformer has.

Truth is optax in f64 with the momentum stored as bf16 between steps (big_vision_optimizer.py). Both sides compute the
gradients and the first parameters (`gradient`, `first_parameter`; the same in optimizer_golden_test.cc). Stored are values
at sampled places:

    <run>.schedule                f64 [20]      factor of step k
    <run>.scale                   f32 [20]      2^n that the gradients of step k are multiplied by: the clip is on and off
    <run>.tensor_<i>              u8            name of the i-th tensor, whose draws are stream i
    <run>.<tensor>.shape          i64           Flax shape
    <run>.<tensor>.axes           i64 [2]       d0, d1 of the factored second moment (arXiv 2106.04560 section 3.4), or -1
    <run>.<tensor>.place          i64 [S]       sampled elements
    <run>.<tensor>.parameter      f64 [20, S]   after the step
    <run>.<tensor>.momentum       f64 [20, S]   before it is stored as bf16
    <run>.<tensor>.moment_place   i64 [V]       sampled elements of the second moment: v_row then v_col, or v
    <run>.<tensor>.moment         f64 [20, V]

Every step starts from stored values: parameters rounded to f32, momentum to bf16. Before each step every second sampled
parameter is set to 0, so that what it is afterwards is the update alone. Second moments are never touched.
"""

import re
import sys

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from optax._src.factorized import _factored_dims

import big_vision_optimizer as bv
import counter_draws
import golden_file

STEPS, PLACES, MOMENT_PLACES = 20, 48, 32
SEED = 20210609
LEARNING_RATE = 0.01
DECAY = {"body": 0.03 * LEARNING_RATE, "head": 3.0 * LEARNING_RATE, "none": 0.0}
GRADIENT_SCALE = 1 / 64  # a step's 1 / batch; the gradients are sums over images
ROTATION = 7919  # elements that the draws move from step to step

GIANT = {  # G/14 with 1000 classes, and what is different with 32 x 32 patches (B/32)
    "embedding/kernel": (14, 14, 3, 1664),
    "pos_embedding": (1, 256, 1664),
    "LayerNorm_0/scale": (1664,),
    "query/kernel": (1664, 16, 104),
    "query/bias": (16, 104),
    "out/kernel": (16, 104, 1664),
    "Dense_0/kernel": (1664, 8192),
    "Dense_0/bias": (8192,),
    "Dense_1/kernel": (8192, 1664),
    "MAPHead_0/probe": (1, 1, 1664),
    "head/kernel": (1664, 1000),
    "head/bias": (1000,),
    "patch32/embedding/kernel": (32, 32, 3, 768),
}
SMALL = {
    "embedding/kernel": (14, 14, 3, 40),
    "patch32/embedding/kernel": (32, 32, 3, 40),
    "pos_embedding": (1, 33, 48),
    "LayerNorm_0/scale": (64,),
    "key/kernel": (64, 2, 32),
    "key/bias": (2, 32),
    "out/kernel": (2, 32, 64),
    "many_heads/kernel": (64, 40, 8),
    "Dense_0/kernel": (48, 100),
    "Dense_1/kernel": (100, 48),
    "square/kernel": (36, 36),
    "MAPHead_0/probe": (1, 1, 64),
    "head/kernel": (64, 10),
    "many_classes/head/kernel": (33, 2100),
}
# name: (rule, tensors, n of 2^n with the clip off and on, steps in which only the head has a gradient)
RUNS = {
    "giant_adafactor": ("adafactor", GIANT, (-9, -5), 0),
    "small_adafactor": ("adafactor", SMALL, (-5, 1), 0),
    "zero_head": ("adafactor", SMALL, (-5, 1), 2),
    "small_adamw": ("adamw", SMALL, (-5, 1), 0),
    "small_sgd": ("sgd", SMALL, (-5, 1), 0),
}


def schedule(k):
    """rsqrt with 5 steps of warm-up, 5 of cooldown, timescale 10 (big_vision utils.create_learning_rate_schedule)."""
    k = jnp.asarray(k, jnp.float64)
    base = 1 / jnp.sqrt(1 + jnp.maximum(k - 5, 0) / 10)
    return base * jnp.minimum(1, k / 5) * jnp.minimum(1, (STEPS - k) / 5)


def gradient(draws, step, scale):
    """f32: draws moved on by step * ROTATION, times 1 .. 7 by place, times a power of two."""
    n = draws.size
    moved = np.roll(draws, -(step * ROTATION % n))
    return moved * (1 + np.arange(n) % 7).astype(np.float32) * np.float32(scale)


def first_parameter(count, tensor):
    return counter_draws.uniform(count, SEED, stream=1000 + tensor) * np.float32(0.25)


def places(count, wanted, tensor):
    """The first, the last and others, ascending."""
    inner = (counter_draws.uniform(wanted, SEED, stream=2000 + tensor).astype(np.float64) + 1) / 2 * count
    return np.unique(np.concatenate([[0, count - 1], np.minimum(inner.astype(np.int64), count - 1)]))[:wanted]


def axes(shape, rule):
    dims = _factored_dims(shape, True, 32) if rule == "adafactor" else None
    return np.array([-1, -1] if dims is None else [dims[1], dims[0]], np.int64)


class Run:
    """The truth in f64 and, from the same stored values, optax in f32 as the authors run it."""

    def __init__(self, rule, shapes, scales, zero_steps):
        self.rule, self.shapes, self.scales, self.zero_steps = rule, shapes, scales, zero_steps
        self.draws = {n: counter_draws.uniform(int(np.prod(s)), SEED, stream=i) for i, (n, s) in enumerate(shapes.items())}
        self.parameters = {n: first_parameter(int(np.prod(s)), i).astype(np.float64).reshape(s)
                           for i, (n, s) in enumerate(shapes.items())}
        self.places = {n: places(int(np.prod(s)), PLACES, i) for i, (n, s) in enumerate(shapes.items())}
        decay = {n: DECAY[bv.decay_group(n)] for n in shapes}
        make = lambda precision: bv.make(rule, LEARNING_RATE, decay, schedule, precision=precision)
        self.exact, self.authors = make("f64"), make("f32")
        self.exact_state = self.exact.init(self.parameters)
        self.authors_state = self.authors.init(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), self.parameters))
        self.exact_step, self.authors_step = jax.jit(self.exact.update), jax.jit(self.authors.update)
        self.rows = {n: {"parameter": [], "momentum": [], "moment": []} for n in shapes}
        self.worst = {"update": 0.0, "parameter": 0.0, "moment": 0.0}

    def scale(self, k):
        return 2.0 ** self.scales[k % 2]

    def gradients(self, k):
        def of(name):
            g = gradient(self.draws[name], k, self.scale(k)) * np.float32(GRADIENT_SCALE)
            if k < self.zero_steps and bv.decay_group(name) != "head":
                g = np.zeros_like(g)
            return g.reshape(self.shapes[name])
        return {n: of(n) for n in self.shapes}

    def sampled(self, tree, name):
        return np.asarray(tree[name], np.float64).ravel()[self.places[name]]

    def step(self, k):
        for name, p in self.parameters.items():
            p.reshape(-1)[self.places[name][1::2]] = 0
        g32 = self.gradients(k)
        g64 = jax.tree.map(lambda g: jnp.asarray(g, jnp.float64), g32)
        before = {n: self.sampled(self.parameters, n) for n in self.shapes}
        update, self.exact_state = self.exact_step(g64, self.exact_state, self.parameters)
        p32 = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), self.parameters)
        update32, self.authors_state = self.authors_step(g32, self.authors_state, p32)
        m = bv.momentum(self.exact_state)
        for name in self.shapes:
            after = before[name] + self.sampled(update, name)
            after32 = before[name].astype(np.float32) + self.sampled(update32, name).astype(np.float32)
            row = self.rows[name]
            row["parameter"].append(after)
            row["momentum"].append(self.sampled(m, name))
            self.judge(name, before[name], after, after32)
            self.parameters[name] = (self.parameters[name] + np.asarray(update[name])).astype(np.float32).astype(np.float64)
        self.exact_state = bv.store_momentum(self.exact_state)
        self.authors_state = bv.with_momentum(self.authors_state, jax.tree.map(bv.to_bf16, m))

    def unit(self, name, before, after):
        """One f32 ulp of the largest term that an element is a sum of: parameter, old and new part of the momentum."""
        m = self.rows[name]["momentum"]
        kept = bv.MOMENTUM_DECAY * np.asarray(bv.to_bf16(m[-2])).astype(np.float64) if len(m) > 1 else 0 * m[-1]
        largest = np.maximum(np.maximum(np.abs(kept), np.abs(m[-1] - kept)), np.abs(m[-1]))
        terms = np.abs(after - before) * largest / np.maximum(np.abs(m[-1]), 1e-300)
        return np.spacing(np.maximum(np.maximum(np.abs(before), terms), 1e-37).astype(np.float32)).astype(np.float64)

    def judge(self, name, before, after, after32):
        """The authors' own f32 error in ulps, for the record."""
        error = np.abs(after32.astype(np.float64) - after) / self.unit(name, before, after)
        self.worst["update"] = max(self.worst["update"], error[1::2].max(initial=0))
        self.worst["parameter"] = max(self.worst["parameter"], error[0::2].max(initial=0))
        v, v32 = (bv.second_moments(s, name) for s in (self.exact_state, self.authors_state))
        if v is None:
            return
        spots = places(v.size, MOMENT_PLACES, 77)
        self.rows[name]["moment"].append(v[spots])
        ulp = np.spacing(v[spots].astype(np.float32)).astype(np.float64)
        self.worst["moment"] = max(self.worst["moment"], (np.abs(v32[spots] - v[spots]) / ulp).max())

    def tensors(self, run):
        out = {f"{run}.schedule": np.array([schedule(k) for k in range(STEPS)], np.float64),
               f"{run}.scale": np.array([self.scale(k) for k in range(STEPS)], np.float32)}
        for i, (name, shape) in enumerate(self.shapes.items()):
            out[f"{run}.tensor_{i}"] = np.frombuffer(name.encode(), np.uint8)
            out[f"{run}.{name}.shape"] = np.array(shape, np.int64)
            out[f"{run}.{name}.axes"] = axes(shape, self.rule)
            out[f"{run}.{name}.place"] = self.places[name]
            for key, rows in self.rows[name].items():
                if rows:
                    out[f"{run}.{name}.{key}"] = np.stack(rows)
            v = bv.second_moments(self.exact_state, name)
            if v is not None:
                out[f"{run}.{name}.moment_place"] = places(v.size, MOMENT_PLACES, 77)
        return out


def main():
    args = golden_file.arguments(__doc__, lambda p: p.add_argument("--only", help="regular expression: runs to do, writes nothing"))
    tensors, notes = {}, {}
    for name, (rule, shapes, scales, zero_steps) in RUNS.items():
        if args.only and not re.search(args.only, name):
            continue
        run = Run(rule, shapes, scales, zero_steps)
        for k in range(STEPS):
            run.step(k)
        notes[name] = "optax f32, largest error in ulp: " + ", ".join(f"{k} {v:.1f}" for k, v in run.worst.items())
        print(f"{name}: {notes[name]}")
        tensors.update(run.tensors(name))
    if args.only:
        sys.exit(0)
    golden_file.finish(args, "optimizer", tensors, notes)


if __name__ == "__main__":
    main()
