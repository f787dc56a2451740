"""Factors of big_vision's learning-rate schedules (utils.create_learning_rate_schedule) in f64, from the closed form.

    <case>.config   i64 [6]   0 rsqrt, 1 cosine, 2 linear, 3 constant; warm-up, timescale, cooldown, total, shift in steps
    <case>.step     i64 [n]
    <case>.factor   f64 [n]
    released.rate   f64 [n]   of case "released": 8e-4 times the factor, as arXiv 2106.04560 appendix C configures g/14

Where optax has the same curve (cosine_decay_schedule, polynomial_schedule) the script asserts that both agree in f64.
"""

import math

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np
import optax

import golden_file

KINDS = ("rsqrt", "cosine", "linear", "constant")
CASES = {  # kind, warm-up, timescale, cooldown, total, shift
    "released": ("rsqrt", 10_000, 10_000, 50_000, 1_000_000, 0),
    "shifted": ("rsqrt", 10_000, 10_000, 50_000, 500_000, 70_000),
    "no_plateau": ("rsqrt", 10_000, 10_000, 10_000, 20_000, 0),
    "rsqrt_bare": ("rsqrt", 0, 1_000, 0, 5_000, 0),
    "cosine": ("cosine", 500, 1, 0, 20_000, 0),
    "cosine_cooldown": ("cosine", 0, 1, 2_000, 20_000, 0),
    "linear": ("linear", 10_000, 1, 0, 120_000, 0),
    "linear_cooldown": ("linear", 100, 1, 300, 1_000, 0),
    "constant": ("constant", 10_000, 1, 50_000, 400_000, 0),
    "constant_bare": ("constant", 0, 1, 0, 7, 0),
}


def factor(kind, warmup, timescale, cooldown, total, shift, k):
    progress = min(1.0, max(0.0, (k - warmup) / (total - warmup)))
    if kind == "rsqrt":
        r = 1 / math.sqrt(1 + ((k + shift - warmup) if k >= warmup else shift) / timescale)
    elif kind == "cosine":
        r = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        r = 1 - progress if kind == "linear" else 1.0
    if warmup:
        r *= min(1.0, k / warmup)
    if cooldown:
        r *= min(1.0, (total - k) / cooldown)
    return r


def steps_of(warmup, cooldown, total):
    edges = [0, 1, warmup, total - cooldown, total // 2, total - 1] + [total * i // 40 for i in range(40)]
    near = {k + d for k in edges for d in (-1, 0, 1)} | {10_000, 20_000, 50_000, 100_000, 500_000, 950_000}
    return sorted(k for k in near if 0 <= k < total)


def agrees_with_optax(kind, warmup, cooldown, total, steps, factors):
    if cooldown or kind not in ("cosine", "linear"):
        return
    n = total - warmup
    other = optax.cosine_decay_schedule(1.0, n) if kind == "cosine" else optax.polynomial_schedule(1.0, 0.0, 1, n)
    for k, f in zip(steps, factors):
        if k >= warmup:
            assert abs(f - float(other(np.float64(k - warmup)))) < 1e-12, (kind, k)


def main():
    args = golden_file.arguments(__doc__)
    tensors = {}
    for name, (kind, warmup, timescale, cooldown, total, shift) in CASES.items():
        steps = steps_of(warmup, cooldown, total)
        factors = [factor(kind, warmup, timescale, cooldown, total, shift, k) for k in steps]
        agrees_with_optax(kind, warmup, cooldown, total, steps, factors)
        tensors[f"{name}.config"] = np.array([KINDS.index(kind), warmup, timescale, cooldown, total, shift], np.int64)
        tensors[f"{name}.step"] = np.array(steps, np.int64)
        tensors[f"{name}.factor"] = np.array(factors, np.float64)
    tensors["released.rate"] = 8e-4 * tensors["released.factor"]
    golden_file.finish(args, "schedule", tensors)


if __name__ == "__main__":
    main()
