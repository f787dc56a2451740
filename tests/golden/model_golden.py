"""Logits, loss and every gradient of a small ViT per head and position embedding, from flax: data/model.safetensors.

Truth is vit_flax.py in f64. Beside it stands, for every tensor, how far flax itself is off in f32, and how far it is off
with the engine's bf16 rounding points: these set the bounds of model_golden_test.cc. Parameters are drawn (no zeros and
ones), so that no gradient is trivial.

Tensors, for each case: images, labels (class ids, or multi-hot), logits, loss (sum over the images),
gradient/<parameter> (0 for key biases, after a check that they are nothing but rounding), and error/<tensor>
[f32, bf16]: relative L2, for key biases the norm itself. The error of the loss is the norm of the errors of the images'
losses over the sum: errors of a single number can cancel by luck.
"""

import dataclasses

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np

import counter_draws
import golden_file
import vit_flax

BATCH = 4
SIDE = 14  # pixels: three patches of four, and two pixels that no patch covers
CLASSES = 5
PARAMETER_SEED, PIXEL_SEED = 1, 2


@dataclasses.dataclass(frozen=True)
class Case:
    pool: str
    position: str
    loss: str
    representation: int = 0
    channels: int = 3

    @property
    def name(self):
        representation = "_representation" if self.representation else ""
        return f"{self.pool}_{self.position}_{self.loss}{representation}"

    def model(self, precision):
        return vit_flax.ViT(
            patch=4, width=32, depth=2, heads=2, mlp_width=48, classes=CLASSES, pool=self.pool,
            position=self.position, representation_size=self.representation, precision=precision,
        )  # fmt: skip


CASES = [
    Case("map", "learned", "sigmoid"),
    Case("map", "sincos2d", "softmax"),
    Case("map", "learned", "softmax", representation=24, channels=1),
    Case("gap", "learned", "softmax", channels=1),
    Case("gap", "sincos2d", "sigmoid"),
    Case("gap", "sincos2d", "softmax", representation=24),
    Case("cls", "learned", "sigmoid"),
    Case("cls", "sincos2d", "softmax"),
    Case("cls", "learned", "sigmoid", representation=24),
]


def parameter(name, shape, stream):
    """Uniform in +-1/4 (kernels, and what starts at zero), scales around 1; rounded to f32 once."""
    values = counter_draws.uniform(int(np.prod(shape)), PARAMETER_SEED, stream).astype(np.float64).reshape(shape) / 4
    return (values + 1 if name.endswith("scale") else values).astype(np.float32)


def parameters(case):
    images = jnp.zeros((1, SIDE, SIDE, case.channels), jnp.float32)
    shapes = vit_flax.flat(jax.eval_shape(case.model("f32").init, jax.random.key(0), images)["params"])
    return {name: parameter(name, shapes[name].shape, i) for i, name in enumerate(sorted(shapes))}


def batch(case):
    pixels = counter_draws.uniform(BATCH * SIDE * SIDE * case.channels, PIXEL_SEED, 0).astype(np.float64)
    images = np.floor((pixels + 1) * 128).astype(np.uint8).reshape(BATCH, SIDE, SIDE, case.channels)
    return images, np.array([3, 0, 4, 3], np.int32)


def losses_by_image(logits, targets, loss):
    return np.array([vit_flax.loss_sum(logits[i], jnp.asarray(targets[i]), loss) for i in range(BATCH)])


def evaluate(case, precision):
    """Logits, losses of the images and gradients of their sum, as f64 arrays."""
    images, labels = batch(case)
    targets = np.eye(CLASSES)[labels]
    drawn = vit_flax.cast(parameters(case), precision)
    (_, logits), gradients = vit_flax.value_and_gradients(case.model(precision), drawn, images, targets, case.loss)
    losses = losses_by_image(logits, targets.astype(logits.dtype), case.loss)
    return (np.asarray(x, np.float64) for x in (logits, losses)), {
        name: np.asarray(g, np.float64) for name, g in gradients.items()
    }


def check_key_bias(case, gradients, name):
    query = np.linalg.norm(gradients[name.replace("key/bias", "query/bias")])
    assert np.linalg.norm(gradients[name]) < 1e-13 * query, (case.name, name)


def golden(case):
    (logits, losses), gradients = evaluate(case, "f64")
    others = [evaluate(case, precision) for precision in ("f32", "bf16")]
    images, labels = batch(case)
    tensors = {"images": images, "labels": labels, "logits": logits, "loss": np.array([losses.sum()])}
    errors = {"logits": [], "loss": []}
    for (other_logits, other_losses), _ in others:
        errors["logits"].append(golden_file.relative_l2(other_logits, logits))
        errors["loss"].append(np.linalg.norm(other_losses - losses) / losses.sum())
    for name, truth in gradients.items():
        key = f"gradient/{name}"
        if name.endswith("key/bias"):
            check_key_bias(case, gradients, name)
            tensors[key] = np.zeros_like(truth)
            errors[key] = [np.linalg.norm(g[name]) for _, g in others]
        else:
            tensors[key] = truth
            errors[key] = [golden_file.relative_l2(g[name], truth) for _, g in others]
    tensors.update({f"error/{key}": np.array(pair, np.float32) for key, pair in errors.items()})
    return {f"{case.name}/{key}": value for key, value in tensors.items()}


def main():
    args = golden_file.arguments(__doc__)
    tensors = {}
    for case in CASES:
        tensors.update(golden(case))
    # Errors depend on the order in which the CPU at hand sums.
    golden_file.finish(args, "model", tensors, tolerance={np.dtype(np.float32): 0.5})


if __name__ == "__main__":
    main()
