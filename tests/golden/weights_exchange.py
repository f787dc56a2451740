"""The whole way through other programs: a big_vision .npz imported by vitscale, exported, and loaded by timm, transformers
and numpy, with the logits that flax computes.

    weights_exchange.py --vitscale build/dev/bin/vitscale

For each model of weights_golden.py: `checkpoints import`, `verify`, then `export` to the three formats. timm and
transformers build the model from the very expression that export prints and load the file with strict=True; their
logits (for SigLIP: the features, times the head) must equal flax's. The .npz must hold the arrays of the first file, bit
for bit, and so must what comes back through timm. Needs requirements-torch.txt. Prints a table; exit code 1 if a bound
is broken.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import timm
import torch
import transformers
from safetensors.torch import load_file

import golden_file

FOLDER = golden_file.DATA / "weights"
# Truth is flax in f64. torch computes in f64 here, so only the order of sums and tanh differ.
BOUND = 1e-12


class Vitscale:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def run(self, *arguments):
        command = [self.program, "checkpoints", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def load(self, file, *flags):
        return self.run("import", file, "--out", self.folder / "checkpoints", *flags).strip()

    def export(self, checkpoint, form, name, *flags):
        out = self.folder / name
        shown = json.loads(self.run("export", checkpoint, "--format", form, "--out", out, "-o", "json", *flags))
        return out, shown["model"]


def input_of(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float64) / 255 * 2 - 1


def loaded(expression, path):
    names = {"timm": timm, "transformers": transformers}
    model = eval(expression, names)  # printed by vitscale itself
    model.load_state_dict(load_file(path), strict=True)
    return model.to(torch.float64).eval()


def timm_logits(expression, path, images):
    with torch.no_grad():
        return loaded(expression, path)(input_of(images)).numpy()


def siglip_logits(expression, path, images, head):
    """As transformers users do: by folder, so that the names below "vision_model." are resolved."""
    model = eval(expression, {"transformers": transformers})
    folder = path.parent / "siglip"
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    path.replace(folder / "model.safetensors")
    model, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    with torch.no_grad():
        features = model.to(torch.float64).eval()(input_of(images)).pooler_output.numpy()
    return features @ head["kernel"].astype(np.float64) + head["bias"].astype(np.float64)


def same_arrays(one, other):
    with np.load(one) as a, np.load(other) as b:
        return sorted(a.files) == sorted(b.files) and all(a[n].tobytes() == b[n].tobytes() for n in a.files)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vitscale", type=pathlib.Path, required=True)
    program = parser.parse_args().vitscale.resolve()
    golden = golden_file.read("weights_golden")
    images, rows = golden["images"], []
    with tempfile.TemporaryDirectory() as folder:
        vitscale = Vitscale(program, pathlib.Path(folder))
        for name in ("map", "cls"):
            source, truth = FOLDER / f"bv_{name}.npz", golden[f"logits_f64/{name}"]
            checkpoint = vitscale.load(source)
            vitscale.run("verify", checkpoint)

            path, expression = vitscale.export(checkpoint, "timm", f"{name}.safetensors")
            error = golden_file.relative_l2(timm_logits(expression, path, images), truth)
            rows.append((f"{name}: npz -> vitscale -> timm, logits", error, BOUND))
            back, _ = vitscale.export(vitscale.load(path, "--heads", 2), "npz", f"{name}_back.npz")
            rows.append((f"{name}: … -> vitscale -> npz, arrays that differ", float(not same_arrays(source, back)), 0))

            path, _ = vitscale.export(checkpoint, "npz", f"{name}.npz")
            rows.append((f"{name}: npz -> vitscale -> npz, arrays that differ", float(not same_arrays(source, path)), 0))
            if name == "cls":
                continue  # SigLIP has no class token
            path, expression = vitscale.export(checkpoint, "hf", f"{name}_hf.safetensors", "--without-head")
            with np.load(source) as file:
                head = {key: file[f"head/{key}"] for key in ("kernel", "bias")}
            error = golden_file.relative_l2(siglip_logits(expression, path, images, head), truth)
            rows.append((f"{name}: npz -> vitscale -> SigLIP, logits", error, BOUND))
    for what, error, bound in rows:
        print(f"{what:56} {error:9.3g}  bound {bound:g}")
    sys.exit(0 if all(error <= bound for _, error, bound in rows) else 1)


if __name__ == "__main__":
    main()
