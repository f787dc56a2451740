"""The optimizer chain of big_vision (optax.py `make`, `scale_by_adafactor`), composed from optax 0.2.8.

Order: clip by the global norm, transform, learning rate, + weight decay * parameter, schedule, sign. Weight decay is not
multiplied by the learning rate here: `decay` holds what a step takes off at a schedule factor of 1.

    tx = make("adafactor", learning_rate=8e-4, decay=tree_of_numbers, schedule=lambda k: 1.0)

precision "f32" is what the authors run: momentum in bf16. "f64" is the truth (needs jax_enable_x64): everything in
double, the momentum too; `store_momentum` then rounds it to bf16 between steps.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

BETA1 = 0.9
BETA2 = 0.999  # Adam
BETA2_CAP = 0.999  # Adafactor

# What XLA multiplies the bf16 momentum by: the Python number 0.9 next to a bf16 array is a bf16 number
# (optimizer_decay.py).
MOMENTUM_DECAY = float(ml_dtypes.bfloat16(BETA1))


def _beta2(precision, cap):
    """arXiv 2106.04560 section 3.4: 1 - t^-0.8 with t = 1 on the first step, at most `cap`."""
    dtype = jnp.float64 if precision == "f64" else jnp.float32

    def decay_rate(step, exponent):
        return jnp.minimum(jnp.asarray(cap, dtype), 1.0 - (jnp.asarray(step, dtype) + 1.0) ** -exponent)

    return decay_rate


def _adafactor(precision, momentum_dtype):
    second = optax.scale_by_factored_rms(
        factored=True, decay_rate=0.8, step_offset=0, min_dim_size_to_factor=32, epsilon=1e-30,
        decay_rate_fn=_beta2(precision, BETA2_CAP))
    return optax.chain(second, optax.ema(BETA1, debias=False, accumulator_dtype=momentum_dtype))


def make(name, learning_rate, decay, schedule, clip_norm=1.0, precision="f32"):
    """`decay`: a tree like the parameters with a number for every tensor; `schedule`: optimizer count -> factor."""
    momentum_dtype = jnp.float64 if precision == "f64" else jnp.bfloat16
    transform = {
        "adafactor": lambda: _adafactor(precision, momentum_dtype),
        "adamw": lambda: optax.scale_by_adam(BETA1, BETA2, eps=1e-8, mu_dtype=momentum_dtype),
        "sgd": lambda: optax.trace(BETA1, accumulator_dtype=momentum_dtype),
    }[name]()
    values = sorted(set(jax.tree.leaves(decay)))
    decays = [
        optax.masked(optax.add_decayed_weights(value), jax.tree.map(lambda d, value=value: d == value, decay))
        for value in values if value != 0
    ]
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(*clip, transform, optax.scale(learning_rate), *decays, optax.scale_by_schedule(schedule),
                       optax.scale(-1.0))


def decay_group(name):
    """Which weight decay a parameter has: "head", "body" or "none" (big_vision wd_mults; first match wins)."""
    if name == "head/kernel" or name.endswith("/head/kernel"):
        return "head"
    return "body" if name.endswith("/kernel") else "none"


def _state(tree, kinds):
    is_state = lambda node: isinstance(node, kinds)
    return [node for node in jax.tree.leaves(tree, is_leaf=is_state) if is_state(node)]


_MOMENTUM = {optax.EmaState: "ema", optax.ScaleByAdamState: "mu", optax.TraceState: "trace"}


def momentum(state):
    """The tree of momenta in an optimizer state."""
    node = _state(state, tuple(_MOMENTUM))[0]
    return getattr(node, _MOMENTUM[type(node)])


def with_momentum(state, tree):
    kinds = tuple(_MOMENTUM)
    is_state = lambda node: isinstance(node, kinds)
    change = lambda node: node._replace(**{_MOMENTUM[type(node)]: tree}) if is_state(node) else node
    return jax.tree.map(change, state, is_leaf=is_state)


def to_bf16(value):
    return jnp.asarray(value, jnp.float32).astype(jnp.bfloat16)


def store_momentum(state):
    """What a f64 state looks like after its momentum was stored as bf16, for the next call of update.

    optax in f64 multiplies the momentum by 0.9; the authors' f32 program by bf16(0.9). So the stored value is scaled by
    the quotient, which puts the product right.
    """
    rescale = MOMENTUM_DECAY / BETA1
    return with_momentum(state, jax.tree.map(lambda m: to_bf16(m).astype(jnp.float64) * rescale, momentum(state)))


def second_moments(state, name):
    """f64 or f32 [elements] of one tensor: v_row then v_col, or v; None for SGD."""
    factored = _state(state, optax.FactoredState)
    if factored:
        row, col, full = (np.asarray(t[name]) for t in (factored[0].v_row, factored[0].v_col, factored[0].v))
        return full.ravel() if row.shape == (1,) and col.shape == (1,) else np.concatenate([row.ravel(), col.ravel()])
    adam = _state(state, optax.ScaleByAdamState)
    return np.asarray(adam[0].nu[name]).ravel() if adam else None
