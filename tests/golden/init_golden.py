"""The initial distribution of every tensor, as flax.linen draws it (models of vit_flax.py), for two models.

For every tensor the script finds out which of four families the values of several flax seeds come from, checks that with a
Kolmogorov-Smirnov test, and stores

    <model>.<tensor>   f64 [6]   family, parameter, and mean, standard deviation, least and greatest value that flax drew

    family 0 constant: parameter is the value; 1 normal: standard deviation; 2 normal cut at two standard deviations:
    standard deviation before the cut; 3 uniform: limit.
"""

import jax
import numpy as np
from scipy import stats

import golden_file
import vit_flax

MODELS = {
    "small": dict(patch=4, width=32, depth=2, heads=2, mlp_width=64, classes=10, pool="map", head_bias=-2.2),
    "bigger": dict(patch=16, width=384, depth=2, heads=6, mlp_width=1536, classes=1000, pool="map", head_bias=-6.9),
    "cls": dict(patch=4, width=48, depth=1, heads=3, mlp_width=96, classes=10, pool="cls", representation_size=64),
}
INPUT = {"small": (28, 28, 1), "bigger": (224, 224, 3), "cls": (32, 32, 3)}
SEEDS = 4
CUT = 0.87962566103423978  # standard deviation of a standard normal cut at +-2; flax divides by it


def parameters(name):
    """{tensor: values of all seeds}, {tensor: shape}."""
    model = vit_flax.ViT(**MODELS[name])
    images = np.zeros((1, *INPUT[name]), np.float32)
    draws = [vit_flax.flat(model.init(jax.random.key(seed), images)["params"]) for seed in range(SEEDS)]
    return {n: np.stack([np.asarray(d[n], np.float64) for d in draws]) for n in draws[0]}


def expected(tensor, shape):
    """Family and parameter by the initialisers that vit_flax.py names; flattened where flax flattens."""
    leaf, module = tensor.split("/")[-1], tensor.split("/")[-2] if "/" in tensor else ""
    if leaf == "pos_embedding":
        return 1, 1 / np.sqrt(shape[-1])
    if leaf == "probe":
        return 3, np.sqrt(6 / (1 + shape[-1]))
    if leaf == "bias" and module.startswith("Dense_"):
        return 1, 1e-6
    if leaf == "kernel" and module in ("embedding", "pre_logits"):
        return 2, np.sqrt(1 / np.prod(shape[:-1])) / CUT  # lecun_normal
    if leaf == "kernel" and module != "head":
        fan_in = shape[0] if module != "out" else shape[0] * shape[1]
        return 3, np.sqrt(6 / (fan_in + np.prod(shape) // fan_in))
    return 0, None


def distribution(family, parameter):
    return {1: stats.norm(scale=parameter), 2: stats.truncnorm(-2, 2, scale=parameter),
            3: stats.uniform(-parameter, 2 * parameter)}[family]


def describe(tensor, values):
    family, parameter = expected(tensor, values.shape[1:])
    if family == 0:
        parameter = values.flat[0]
        assert (values == parameter).all(), tensor
    else:
        p = stats.kstest(values.ravel(), distribution(family, parameter).cdf).pvalue
        assert p > 1e-4, (tensor, family, parameter, p)
    return np.array([family, parameter, values.mean(), values.std(), values.min(), values.max()], np.float64)


def main():
    args = golden_file.arguments(__doc__)
    tensors = {}
    for name in MODELS:
        for tensor, values in parameters(name).items():
            tensors[f"{name}.{tensor}"] = describe(tensor, values)
    golden_file.finish(args, "init", tensors, tolerance={np.dtype(np.float64): 1e-5})


if __name__ == "__main__":
    main()
