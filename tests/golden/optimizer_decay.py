"""Which decay constant optax's momentum in bf16 really has, and whether the product is rounded to bf16.

`decay * m` with decay = 0.9 and m in bf16: JAX's promotion makes the number a bf16 one (0.8984375). Whether the product is
then rounded to bf16 is up to the compiler. For optax.ema, optax.trace and scale_by_adam, eager and under jit, the script
finds the one candidate of four that explains the result, prints the table and stores it:

    data/optimizer_decay.safetensors   <transform>.<eager|jit> = f64 [2]: constant, 1 if the product is rounded else 0
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

import golden_file

COUNT = jnp.zeros([], jnp.int32)
DECAY = 0.9


def ema(g, m):
    transform = optax.ema(DECAY, debias=False, accumulator_dtype=jnp.bfloat16)
    return transform.update(g, optax.EmaState(count=COUNT, ema=m))[0]


def trace(g, m):
    return optax.trace(DECAY, accumulator_dtype=jnp.bfloat16).update(g, optax.TraceState(trace=m))[0]


def adam(g, m):
    # With v = 0, b2 = 0 and eps = 1, g = 0: the update is the first moment, corrected by 1 / (1 - 0.9).
    transform = optax.scale_by_adam(DECAY, 0.0, eps=1.0, mu_dtype=jnp.bfloat16)
    state = optax.ScaleByAdamState(count=COUNT, mu=m, nu=jnp.zeros_like(g))
    return transform.update(g, state)[0] * (1 - DECAY)


def explain(result, m):
    """(constant, rounded) of the candidate that is nearest, and how far it and the next one are."""
    found = []
    for constant in (float(np.float32(DECAY)), float(ml_dtypes.bfloat16(DECAY))):
        product = (constant * m).astype(np.float32)
        for rounded in (0, 1):
            candidate = product.astype(ml_dtypes.bfloat16) if rounded else product
            found.append((np.abs(result - candidate.astype(np.float64)).max(), constant, rounded))
    found.sort()
    return found[0][1:], found[0][0], found[1][0]


def main():
    args = golden_file.arguments(__doc__)
    stored = jnp.linspace(0.5, 1.0, 4096, endpoint=False).astype(jnp.bfloat16)
    gradient = jnp.zeros(stored.shape, jnp.float32)
    m = np.asarray(stored).astype(np.float64)
    tensors, notes = {}, {}
    print(f"{'transform':10} {'mode':6} {'constant':>10} {'product':>10}   error, error of the next candidate")
    for transform in (ema, trace, adam):
        for mode, function in (("eager", transform), ("jit", jax.jit(transform))):
            result = np.asarray(function(gradient, stored)).astype(np.float64)
            (constant, rounded), error, other = explain(result, m)
            print(f"{transform.__name__:10} {mode:6} {constant:10.7f} {'bf16' if rounded else 'f32':>10}   {error:.2g}, {other:.2g}")
            tensors[f"{transform.__name__}.{mode}"] = np.array([constant, rounded], np.float64)
    notes["device"] = jax.devices()[0].platform
    golden_file.finish(args, "optimizer_decay", tensors, notes)


if __name__ == "__main__":
    main()
