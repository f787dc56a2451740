"""Weights as timm and transformers write them, with the logits and features that these compute from them.

Writes data/weights/{timm,hf}_*.safetensors and data/weights_torch.safetensors. Needs requirements-torch.txt, and the
images of weights_golden.py. With --check the numbers are computed again from the committed weights.
"""

import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

import golden_file

FOLDER = golden_file.DATA / "weights"
LIBRARIES = ("torch", "timm", "transformers", "numpy")
SHAPE = dict(img_size=12, patch_size=4, embed_dim=16, num_heads=2, mlp_ratio=2.5, num_classes=5, act_layer="gelu_tanh")
VISION = dict(hidden_size=16, intermediate_size=40, num_attention_heads=2, image_size=12, patch_size=4)


def timm_map():
    return VisionTransformer(**SHAPE, depth=2, class_token=False, global_pool="map")


def timm_cls():
    """The usual one: the class token's position stands in front of the others."""
    return VisionTransformer(**SHAPE, depth=1, global_pool="token")


def timm_gap():
    """LayerNorm before the mean, as big_vision has it: fc_norm off."""
    return VisionTransformer(**SHAPE, depth=1, class_token=False, global_pool="avg", fc_norm=False)


def hf_pair():
    """Both towers: the text tower is no part of the vision model."""
    text = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=11)
    text["max_position_embeddings"] = 4
    vision = dict(VISION, num_hidden_layers=2)
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def fill(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            one = p.ndim == 1 and "norm" in name and name.endswith("weight")
            p.copy_(0.3 * torch.randn(p.shape, generator=generator) + (1 if one else 0))


def outputs(name, model, images):
    """{key: array} in f64 and f32."""
    result = {}
    for key, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        model = model.to(dtype).eval()
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype) / 255 * 2 - 1
        with torch.no_grad():
            y = model.vision_model(x).pooler_output if name.startswith("hf") else model(x)
        result[f"logits_{key}/{name}"] = y.numpy()
    return result


def main():
    args = golden_file.arguments(__doc__)
    images = golden_file.read("weights_golden")["images"]
    tensors = {}
    for seed, (name, make) in enumerate(dict(timm_map=timm_map, timm_cls=timm_cls, timm_gap=timm_gap, hf_pair=hf_pair).items()):
        model, path = make(), FOLDER / f"{name}.safetensors"
        if not args.check:
            fill(model, seed)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, {"format": "pt"})
        model.load_state_dict(load_file(path), strict=True)
        tensors.update(outputs(name, model, images))
    golden_file.finish(args, "weights_torch", tensors, libraries=LIBRARIES)


if __name__ == "__main__":
    main()
