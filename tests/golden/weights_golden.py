"""Weights as big_vision writes them, in every spelling of 2020 to today, with the logits that flax computes from them.

Writes data/weights/*.npz and data/weights_golden.safetensors: images, logits (f64: the truth; f32: flax's own) and
positions resampled by scipy.ndimage.zoom as big_vision's models/vit.py resample_posemb calls it. With --check the
numbers are computed again from the committed .npz files.
"""

import zipfile

import jax
import ml_dtypes
import numpy as np
import scipy.ndimage

import golden_file
import vit_flax

jax.config.update("jax_enable_x64", True)

SHAPE = dict(patch=4, width=16, heads=2, mlp_width=40, classes=5)
IMAGE = 12
FOLDER = golden_file.DATA / "weights"

# name -> settings of the model. The spellings below share their parameters.
MODELS = {
    "map": dict(depth=2, pool="map"),
    "cls": dict(depth=1, pool="cls"),
    "gap_sincos": dict(depth=1, pool="gap", position="sincos2d", representation_size=24),
}
RESAMPLED = [(3, 5), (5, 3), (7, 9), (14, 16), (24, 16), (16, 27), (27, 37), (4, 1), (1, 3), (6, 6)]


def model_of(name, precision):
    return vit_flax.ViT(**SHAPE, **MODELS[name], precision=precision)


def random_parameters(name, draws):
    """Every tensor with values that show in the logits, those that training begins with zeros too."""
    images = np.zeros((1, IMAGE, IMAGE, 3), np.uint8)
    shapes = jax.eval_shape(
        lambda: model_of(name, "f32").init(jax.random.key(0), vit_flax.to_input(images, "f32"))
    )["params"]
    flat = vit_flax.flat(shapes)
    centre = lambda n: 1.0 if n.endswith("scale") else 0.0
    return {
        n: (centre(n) + 0.3 * draws.standard_normal(s.shape)).astype(np.float32) for n, s in sorted(flat.items())
    }


def below(prefix, params):
    return {prefix + n: v for n, v in params.items()}


def scan(params):
    """All blocks of a tensor in one, depth first."""
    at, rest = "Transformer/encoderblock_", {}
    blocks = {}
    for n, v in params.items():
        if n.startswith(at):
            number, tail = n[len(at) :].split("/", 1)
            blocks.setdefault(tail, {})[int(number)] = v
        else:
            rest[n] = v
    stacked = {f"Transformer/encoderblock/{t}": np.stack([b[i] for i in sorted(b)]) for t, b in blocks.items()}
    return {**rest, **stacked}


def old_block_names(name):
    if "encoderblock_" not in name:
        return name
    name = name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
    return name.replace("LayerNorm_1", "LayerNorm_2").replace("MlpBlock_0", "MlpBlock_3")


def old_map(params):
    """2020: other numbers in the blocks, the MAP head at top level, positions inside the encoder."""
    renamed = {old_block_names(n).removeprefix("MAPHead_0/"): v for n, v in params.items()}
    renamed["Transformer/pos_embedding"] = renamed.pop("pos_embedding")
    return renamed


def old_cls(params, draws):
    """2020: the class token has a position of its own, in front of the others."""
    renamed = {old_block_names(n): v for n, v in params.items()}
    own = (0.3 * draws.standard_normal((1, 1, SHAPE["width"]))).astype(np.float32)
    renamed["cls"] = renamed["cls"] - own
    positions = np.concatenate([own, renamed.pop("pos_embedding")], axis=1)
    renamed["Transformer/posembed_input/pos_embedding"] = positions
    return renamed


def as_void(params):
    """bfloat16 as numpy without ml_dtypes knows it."""
    return {n: v.astype(ml_dtypes.bfloat16).view("V2") for n, v in params.items()}


def write_files():
    draws = np.random.default_rng(2106_04560)
    p = {name: random_parameters(name, draws) for name in MODELS}
    state = {"opt/mu/embedding/bias": np.zeros(3, np.float32), "chrono/accum_train_time": np.float64(1.5)}
    text = {"params/txt/Embed_0/embedding": np.zeros((7, 4), np.float32), "params/t": np.zeros(1, np.float32)}
    files = {
        "bv_map": p["map"],
        "bv_map_params": {**below("params/", p["map"]), **state},
        "bv_map_opt_target": {**below("opt/target/", p["map"]), "opt/state/step": np.int64(7)},
        "bv_map_two_towers": {**below("params/img/", p["map"]), **text},
        "bv_map_scan": scan(p["map"]),
        "bv_map_old": old_map(p["map"]),
        "bv_map_bf16": as_void(p["map"]),
        "bv_cls": p["cls"],
        "bv_cls_old": old_cls(p["cls"], draws),
        "bv_gap_sincos": p["gap_sincos"],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        save = np.savez_compressed if name == "bv_map_scan" else np.savez
        save(FOLDER / f"{name}.npz", **tensors)
    assert zipfile.ZipFile(FOLDER / "bv_map.npz").testzip() is None


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {n: file[n] for n in file.files}


def logits_of(name, params, images, tensors, label=None):
    for precision in ("f64", "f32"):
        logits = vit_flax.forward(model_of(name, precision), vit_flax.cast(params, precision), images)
        tensors[f"logits_{precision}/{label or name}"] = np.asarray(logits)


def main():
    args = golden_file.arguments(__doc__)
    if not args.check:
        write_files()
    draws = np.random.default_rng(1)
    images = draws.integers(0, 256, (4, IMAGE, IMAGE, 3), dtype=np.uint8)
    tensors = {"images": images}
    for name in MODELS:
        logits_of(name, load(f"bv_{name}"), images, tensors)
    rounded = {n: v.view(ml_dtypes.bfloat16).astype(np.float32) for n, v in load("bv_map_bf16").items()}
    logits_of("map", rounded, images, tensors, "map_bf16")
    width = 3
    for old, new in RESAMPLED:
        positions = draws.standard_normal((old, old, width)).astype(np.float32)
        resampled = scipy.ndimage.zoom(positions, (new / old, new / old, 1), order=1)
        assert resampled.shape == (new, new, width)
        tensors[f"resample/{old}_{new}/from"] = positions.reshape(-1, width)
        tensors[f"resample/{old}_{new}/to"] = resampled.reshape(-1, width)
    golden_file.finish(args, "weights_golden", tensors)


if __name__ == "__main__":
    main()
