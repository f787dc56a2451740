"""Writes golden files, or checks that a committed one still holds.

A script computes {name: array} and calls `finish`:

    args = golden_file.arguments(__doc__)
    golden_file.finish(args, "optimizer", tensors, notes={"decay": "0.9"})

Without --check it writes data/<name>.safetensors; with it the committed file is compared and nothing is written:
same names, shapes and dtypes; integers and bfloat16 bit for bit; floats within TOLERANCE of relative L2, because
another CPU may sum in another order. Versions of the libraries go into the file's metadata.
"""

import argparse
import importlib.metadata
import pathlib
import sys

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

DATA = pathlib.Path(__file__).resolve().parent / "data"
TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-11}
LIBRARIES = ("jax", "flax", "optax", "numpy", "scipy")


def arguments(doc, add=None):
    """Parses the command line: --check, and what `add(parser)` puts there."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    if add:
        add(parser)
    return parser.parse_args()


def path(name):
    return DATA / f"{name}.safetensors"


def read(name):
    """{name: array} of a committed file; bfloat16 comes as ml_dtypes.bfloat16."""
    with safe_open(path(name), framework="np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def versions(libraries=LIBRARIES):
    found = {}
    for library in libraries:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def relative_l2(actual, truth):
    """|actual - truth| / |truth| in f64; 0 / 0 is 0."""
    actual, truth = np.asarray(actual, np.float64), np.asarray(truth, np.float64)
    error = np.linalg.norm((actual - truth).ravel())
    return 0.0 if error == 0 else error / max(np.linalg.norm(truth.ravel()), np.finfo(np.float64).tiny)


def _difference(key, new, old, tolerance):
    if new.shape != old.shape or new.dtype != old.dtype:
        return f"{key}: is {new.dtype} {new.shape}, the file has {old.dtype} {old.shape}"
    bound = tolerance.get(new.dtype)
    if bound is None:
        return None if np.array_equal(new.view(np.uint8), old.view(np.uint8)) else f"{key}: values differ"
    error = relative_l2(new, old)
    return None if error <= bound else f"{key}: relative L2 error {error:.3g}, bound {bound:.3g}"


def check(name, tensors, tolerance=None):
    """Messages of what differs from the committed file; empty if it holds."""
    tolerance = {**TOLERANCE, **(tolerance or {})}
    committed = read(name)
    wrong = [f"{key}: only on one side" for key in sorted(set(tensors) ^ set(committed))]
    for key in sorted(set(tensors) & set(committed)):
        message = _difference(key, np.ascontiguousarray(tensors[key]), committed[key], tolerance)
        if message:
            wrong.append(message)
    return wrong


def finish(args, name, tensors, notes=None, libraries=LIBRARIES, tolerance=None):
    """Writes data/<name>.safetensors or, with --check, compares and exits with 1 where it does not hold."""
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    if args.check:
        wrong = check(name, tensors, tolerance)
        print(f"{path(name).name}: " + ("holds" if not wrong else f"{len(wrong)} tensors differ"))
        if wrong:
            print("\n".join(wrong))
            sys.exit(1)
        return
    DATA.mkdir(exist_ok=True)
    metadata = {**versions(libraries), **{key: str(value) for key, value in (notes or {}).items()}}
    save_file(tensors, path(name), metadata=metadata)
    print(f"{path(name).name}: {len(tensors)} tensors, {path(name).stat().st_size} bytes")


bfloat16 = ml_dtypes.bfloat16
