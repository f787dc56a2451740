"""The Vision Transformer of arXiv 2106.04560 from flax.linen building blocks: the model that golden values come from.

Parameters have the names and shapes of big_vision's models/vit.py ("Transformer/encoderblock_0/LayerNorm_0/scale", ...),
so that a flat dictionary of arrays is the same for both sides. Source of the architecture: the paper, sections 3.2 and
3.6; big_vision models/vit.py; flax 0.12.8 for what its modules compute.

`precision` says in what the model computes:
  "f64"   everything in double (needs jax_enable_x64): the truth;
  "f32"   what flax does by itself on a CPU;
  "bf16"  f32 arithmetic in which every operand of a matrix product is rounded to bf16, forward and backward, at the
          points where the engine keeps a tensor in bf16. Sums stay f32. See `Rounding`.

    model = ViT(patch=4, width=32, depth=2, heads=2, mlp_width=64, classes=5, pool="map")
    logits = model.apply({"params": nested(flat)}, to_input(images_u8, "f32"))
    loss, gradients = value_and_gradients(model, flat, images_u8, targets, "sigmoid")   # sums over the images
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

jax.config.update("jax_default_matmul_precision", "highest")

XAVIER = nn.initializers.xavier_uniform()


def dtype_of(precision):
    return jnp.float64 if precision == "f64" else jnp.float32


# ---- rounding to bf16 ------------------------------------------------------------------------------------------


def to_bf16(x):
    """x in its own dtype, with 8 significant bits (round to nearest even)."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _rounding(forward, backward):
    @jax.custom_vjp
    def apply(x):
        return to_bf16(x) if forward else x

    apply.defvjp(lambda x: (apply(x), None), lambda _, g: (to_bf16(g) if backward else g,))
    return apply


class Rounding:
    """Where a tensor is kept in bf16: `both` rounds the value and its gradient, the others one of the two."""

    def __init__(self, precision):
        on = precision == "bf16"
        same = lambda x: x
        self.on = on
        self.both = _rounding(True, True) if on else same
        self.value = _rounding(True, False) if on else same
        self.gradient = _rounding(False, True) if on else same


def round_kernels(flat):
    """The kernels as matrix products see them: rounded, with the gradient passed through. The probe's query projection
    is one row for all images and stays in f32."""
    value = _rounding(True, False)
    exact = "MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"
    return {n: value(p) if n.endswith("kernel") and n != exact else p for n, p in flat.items()}


# ---- attention in bf16 -----------------------------------------------------------------------------------------
# Shapes as flax has them: [batch, tokens, heads, head_dim]. Scores, softmax and sums are f32.


def attention_with_rounding(query, key, value, weights, scores):
    """`weights` and `scores` round the operands of the second product, forward and backward."""
    scale = 1 / np.sqrt(query.shape[-1]).astype(query.dtype)
    products = scores(jnp.einsum("bqhd,bkhd->bhqk", query, key))
    kept = weights(jax.nn.softmax(products * scale))
    return _rounding(True, True)(jnp.einsum("bhqk,bkhd->bqhd", kept, value))


def self_attention_bf16(query, key, value, **_):
    r = Rounding("bf16")
    return attention_with_rounding(r.both(query), r.both(key), r.both(value), r.value, r.gradient)


def pool_attention_bf16(query, key, value, **_):
    """One query, in f32; weights are multiplied in f32 as well."""
    r, same = Rounding("bf16"), lambda x: x
    return attention_with_rounding(query, r.both(key), r.both(value), same, same)


@jax.custom_vjp
def tanh_bf16(x):
    return to_bf16(jnp.tanh(x))


def _tanh_forward(x):
    y = tanh_bf16(x)
    return y, y


tanh_bf16.defvjp(_tanh_forward, lambda y, g: (to_bf16(g) * (1 - y * y),))


# ---- the model -------------------------------------------------------------------------------------------------


def position_sincos2d(grid_height, grid_width, width, dtype):
    """[tokens, width]: sin and cos of the column, then of the row; frequencies 10000^(-i / (width / 4 - 1))."""
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4 - 1))
    row, column = np.mgrid[:grid_height, :grid_width].reshape(2, -1, 1)
    parts = [np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega)]
    return jnp.asarray(np.concatenate(parts, axis=1), dtype)


class MlpBlock(nn.Module):
    mlp_width: int
    precision: str
    out_rounding: str = "both"

    @nn.compact
    def __call__(self, x):
        r, dtype = Rounding(self.precision), dtype_of(self.precision)
        dense = functools.partial(
            nn.Dense, dtype=dtype, param_dtype=dtype, kernel_init=XAVIER, bias_init=nn.initializers.normal(1e-6)
        )
        width = x.shape[-1]
        x = r.both(dense(self.mlp_width, name="Dense_0")(x))
        x = r.both(nn.gelu(x, approximate=True))
        return getattr(r, self.out_rounding)(dense(width, name="Dense_1")(x))


def layer_norm(precision, name):
    dtype = dtype_of(precision)
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, param_dtype=dtype, name=name)


def attention(heads, precision, attention_bf16):
    dtype = dtype_of(precision)
    return nn.MultiHeadDotProductAttention(
        num_heads=heads,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=XAVIER,
        deterministic=True,
        attention_fn=attention_bf16 if precision == "bf16" else nn.dot_product_attention,
        name="MultiHeadDotProductAttention_0",
    )


class EncoderBlock(nn.Module):
    heads: int
    mlp_width: int
    precision: str

    @nn.compact
    def __call__(self, x):
        r = Rounding(self.precision)
        y = r.both(layer_norm(self.precision, "LayerNorm_0")(x))
        x = x + r.both(attention(self.heads, self.precision, self_attention_bf16)(y, y))
        y = r.both(layer_norm(self.precision, "LayerNorm_1")(x))
        return x + MlpBlock(self.mlp_width, self.precision, name="MlpBlock_0")(y)


class Encoder(nn.Module):
    depth: int
    heads: int
    mlp_width: int
    precision: str

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            x = EncoderBlock(self.heads, self.mlp_width, self.precision, name=f"encoderblock_{i}")(x)
        return Rounding(self.precision).both(layer_norm(self.precision, "encoder_norm")(x))


class MAPHead(nn.Module):
    heads: int
    mlp_width: int
    precision: str

    @nn.compact
    def __call__(self, x):
        r = Rounding(self.precision)
        probe = self.param("probe", XAVIER, (1, 1, x.shape[-1]), dtype_of(self.precision))
        probe = jnp.tile(probe, (x.shape[0], 1, 1))
        x = r.gradient(attention(self.heads, self.precision, pool_attention_bf16)(probe, x))
        y = r.both(layer_norm(self.precision, "LayerNorm_0")(x))
        x = x + MlpBlock(self.mlp_width, self.precision, "gradient", name="MlpBlock_0")(y)
        return r.value(x[:, 0])


class ViT(nn.Module):
    patch: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    classes: int
    pool: str = "map"  # "map", "gap" or "cls"
    position: str = "learned"  # or "sincos2d"
    representation_size: int = 0
    head_bias: float = 0.0
    precision: str = "f32"

    def embed(self, images):
        """[batch, height, width, channels] -> [batch, tokens, width]; positions, then the class token."""
        dtype = dtype_of(self.precision)
        side = (self.patch, self.patch)
        conv = nn.Conv(
            self.width, side, strides=side, padding="VALID", dtype=dtype, param_dtype=dtype, name="embedding"
        )
        x = Rounding(self.precision).both(conv(images))
        batch, grid_height, grid_width, _ = x.shape
        x = x.reshape(batch, grid_height * grid_width, self.width)
        if self.position == "learned":
            init = nn.initializers.normal(1 / np.sqrt(self.width))
            x = x + self.param("pos_embedding", init, (1, x.shape[1], self.width), dtype)
        else:
            x = x + position_sincos2d(grid_height, grid_width, self.width, dtype)
        if self.pool == "cls":
            cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width), dtype)
            x = jnp.concatenate([jnp.tile(cls, (batch, 1, 1)), x], axis=1)
        return x

    @nn.compact
    def __call__(self, images):
        r, dtype = Rounding(self.precision), dtype_of(self.precision)
        x = self.embed(images)
        x = Encoder(self.depth, self.heads, self.mlp_width, self.precision, name="Transformer")(x)
        if self.pool == "map":
            x = MAPHead(self.heads, self.mlp_width, self.precision, name="MAPHead_0")(x)
        else:
            x = r.both(x.mean(axis=1)) if self.pool == "gap" else x[:, 0]
        if self.representation_size:
            x = nn.Dense(self.representation_size, dtype=dtype, param_dtype=dtype, name="pre_logits")(x)
            x = tanh_bf16(r.both(x)) if r.on else jnp.tanh(x)
        head = nn.Dense(
            self.classes,
            dtype=dtype,
            param_dtype=dtype,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.head_bias),
            name="head",
        )
        return r.gradient(head(x))


# ---- input, loss, gradients ------------------------------------------------------------------------------------


def to_input(images_u8, precision, low=-1.0, high=1.0):
    """uint8 images -> the model's input in [low, high]."""
    x = jnp.asarray(images_u8).astype(dtype_of(precision)) / 255 * (high - low) + low
    return to_bf16(x) if precision == "bf16" else x


def loss_sum(logits, targets, kind):
    """Sum over images. targets: [batch, classes], multi-hot or soft. Sigmoid cross-entropy is summed over classes."""
    if kind == "sigmoid":
        terms = targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)
    else:
        terms = targets * jax.nn.log_softmax(logits)
    return -terms.sum()


def nested(flat):
    return traverse_util.unflatten_dict({tuple(name.split("/")): value for name, value in flat.items()})


def flat(nested_params):
    return {"/".join(path): value for path, value in traverse_util.flatten_dict(nested_params).items()}


def forward(model, params, images_u8):
    """params: flat dictionary; logits [batch, classes]."""
    if model.precision == "bf16":
        params = round_kernels(params)
    return model.apply({"params": nested(params)}, to_input(images_u8, model.precision))


@functools.partial(jax.jit, static_argnums=(0, 4))
def value_and_gradients(model, params, images_u8, targets, kind):
    """(loss sum, logits), gradients of the sum by name."""

    def loss(p):
        logits = forward(model, p, images_u8)
        return loss_sum(logits, targets.astype(logits.dtype), kind), logits

    return jax.value_and_grad(loss, has_aux=True)(params)


def cast(params, precision):
    return {name: jnp.asarray(value, dtype_of(precision)) for name, value in params.items()}
