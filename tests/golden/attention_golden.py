"""Attention forward and backward for every head dim of the model family, from flax: data/attention.safetensors.

Self-attention (every token asks) and the MAP head's (one query for all images), as values and as the gradients of
sum(out * grad_out). Inputs are multiples of 1/64 below 2, exact in bf16, and are drawn again by the test. Truth is
flax.linen.dot_product_attention in f64; error/<tensor> is [flax in f32, the same mathematics with the engine's bf16
rounding points], relative L2.
"""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import counter_draws
import golden_file
import vit_flax

HEAD_DIMS = (32, 64, 72, 80, 88, 104, 112)
SEED = 3
HEADS = 2
TOKENS = 13
BATCH = {"self": 1, "pool": 2}
BF16 = {"self": vit_flax.self_attention_bf16, "pool": vit_flax.pool_attention_bf16}


def draw(stream, *shape):
    """Multiples of 1/64 in [-2, 2)."""
    values = counter_draws.uniform(int(np.prod(shape)), SEED, stream).reshape(shape)
    return np.floor(values.astype(np.float64) * 128) / 64


def inputs(kind, dim):
    """Query, key, value and grad_out, [batch, tokens, heads, dim]; the pool's query has batch 1 and one token."""
    batch, queries = BATCH[kind], 1 if kind == "pool" else TOKENS
    shapes = [(1 if kind == "pool" else batch, queries), (batch, TOKENS), (batch, TOKENS), (batch, queries)]
    stream = 8 * dim + (4 if kind == "pool" else 0)
    return [draw(stream + i, *shape, HEADS, dim) for i, shape in enumerate(shapes)]


def evaluate(kind, dim, precision):
    dtype = vit_flax.dtype_of(precision)
    query, key, value, grad_out = (jnp.asarray(x, dtype) for x in inputs(kind, dim))
    attend = BF16[kind] if precision == "bf16" else nn.dot_product_attention

    def forward(query, key, value):
        return attend(jnp.tile(query, (key.shape[0] // query.shape[0], 1, 1, 1)), key, value)

    out, backward = jax.vjp(forward, query, key, value)
    tensors = dict(zip(("out", "grad_query", "grad_key", "grad_value"), (out, *backward(grad_out))))
    return {name: np.asarray(x, np.float64).reshape(-1, HEADS * dim) for name, x in tensors.items()}


def golden(kind, dim):
    truth = evaluate(kind, dim, "f64")
    others = [evaluate(kind, dim, precision) for precision in ("f32", "bf16")]
    tensors = dict(truth)
    for name, value in truth.items():
        errors = [golden_file.relative_l2(other[name], value) for other in others]
        tensors[f"error/{name}"] = np.array(errors, np.float32)
    return {f"{kind}/{dim}/{name}": value for name, value in tensors.items()}


def main():
    args = golden_file.arguments(__doc__)
    tensors = {}
    for kind in ("self", "pool"):
        for dim in HEAD_DIMS:
            tensors.update(golden(kind, dim))
    golden_file.finish(args, "attention", tensors, tolerance={np.dtype(np.float32): 0.5})


if __name__ == "__main__":
    main()
