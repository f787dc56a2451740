"""Sigmoid and softmax cross-entropy with one label, several labels and soft targets: value and gradient, summed over images.

Truth is jax and optax in f64 (optax.sigmoid_binary_cross_entropy summed over classes, optax.softmax_cross_entropy); the
functions in f32 give the error that f32 has by itself.

    <case>.logits   f32 [batch, classes]
    <case>.targets  f32 [batch, classes]     what the library is given
    <case>.ids      i32, <case>.offsets i32  the labels of every image, where targets are labels
    <loss>.<case>.value f64 [1], .grad f64 [batch, classes]; .value_error, .grad_error f64 [1]: relative L2 of jax in f32
"""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax

import counter_draws
import golden_file

SEED = 7
LOSSES = {
    "sigmoid": lambda z, y: optax.sigmoid_binary_cross_entropy(z, y).sum(),
    "softmax": lambda z, y: optax.softmax_cross_entropy(z, y).sum(),
}


def logits(batch, classes, scale, shift, stream):
    u = counter_draws.uniform(batch * classes, SEED, stream).reshape(batch, classes)
    return (u * np.float32(scale) + np.float32(shift)).astype(np.float32)


def label_lists(batch, classes, most, stream):
    """1 to `most` different labels for every image."""
    u = (counter_draws.uniform(batch * (most + 1), SEED, stream).reshape(batch, most + 1).astype(np.float64) + 1) / 2
    return [sorted({int(x * classes) for x in row[: 1 + int(row[-1] * most)]}) for row in u]


def soft(batch, classes, stream, normalised):
    """Distributions, or independent probabilities of several labels."""
    u = (counter_draws.uniform(batch * classes, SEED, stream).reshape(batch, classes) + 1) / 2
    return (u**4 / (u**4).sum(1, keepdims=True) if normalised else u**4).astype(np.float32)


def cases():
    """name: logits, targets for the sigmoid loss, targets for the softmax loss, labels or None."""
    sizes = {"one_label": (9, 10, 8, 0, 1), "multi_hot": (7, 37, 12, -3, 4), "of_21843": (1, 21843, 4, -10, 6),
             "extreme": (4, 11, 120, 0, 3)}
    for i, (name, (batch, classes, scale, shift, most)) in enumerate(sizes.items()):
        labels = label_lists(batch, classes, most, 10 + i)
        hot = np.zeros((batch, classes), np.float32)
        for row, ids in zip(hot, labels):
            row[ids] = 1
        shares = (hot / hot.sum(1, keepdims=True)).astype(np.float32)
        yield name, logits(batch, classes, scale, shift, i), hot, shares, labels
    z = logits(6, 101, 6, -2, 50)
    distributions = soft(6, 101, 51, normalised=True)
    yield "soft", z, distributions, distributions, None
    yield "soft_multi_hot", z, soft(6, 101, 52, normalised=False), soft(6, 101, 52, normalised=False), None


def evaluate(loss, z, y, dtype):
    value, grad = jax.jit(jax.value_and_grad(LOSSES[loss]))(jnp.asarray(z, dtype), jnp.asarray(y, dtype))
    return np.asarray(value, np.float64).reshape(1), np.asarray(grad, np.float64)


def main():
    args = golden_file.arguments(__doc__)
    tensors = {}
    for name, z, hot, shares, labels in cases():
        tensors[f"{name}.logits"] = z
        if labels is not None:
            tensors[f"{name}.ids"] = np.concatenate(labels).astype(np.int32)
            tensors[f"{name}.offsets"] = np.cumsum([0] + [len(ids) for ids in labels]).astype(np.int32)
        for loss, y in (("sigmoid", hot), ("softmax", shares)):
            if labels is None:
                tensors[f"{loss}.{name}.targets"] = y
            elif loss == "softmax":  # shares are exact in f64
                y = hot.astype(np.float64) / hot.sum(1, keepdims=True)
            value, grad = evaluate(loss, z, y, jnp.float64)
            value32, grad32 = evaluate(loss, z, y, jnp.float32)
            tensors[f"{loss}.{name}.value"], tensors[f"{loss}.{name}.grad"] = value, grad
            tensors[f"{loss}.{name}.value_error"] = np.array([golden_file.relative_l2(value32, value)])
            tensors[f"{loss}.{name}.grad_error"] = np.array([golden_file.relative_l2(grad32, grad)])
    # Errors of f32 depend on the CPU's vector width.
    errors = {k: v for k, v in tensors.items() if k.endswith("_error")}
    values = {k: v for k, v in tensors.items() if k not in errors}
    print("\n".join(f"{k} {v[0]:.2g}" for k, v in errors.items()))
    if args.check:
        errors = {k: v for k, v in golden_file.read("loss").items() if k.endswith("_error")}
    golden_file.finish(args, "loss", values | errors)


if __name__ == "__main__":
    main()
