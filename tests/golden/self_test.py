"""One tensor of every dtype, for the test of the C++ reader, and a few counter draws."""

import numpy as np

import counter_draws
import golden_file


def main():
    args = golden_file.arguments(__doc__)
    tensors = {
        "f64": np.array([0.1, -2.0]),
        "f32": np.array([[0.1], [-2.0]], np.float32),
        "bf16": np.array([0.1, -2.0], golden_file.bfloat16),
        "i64": np.array([-5, 1 << 40]),
        "i32": np.array([-5, 7], np.int32),
        "draws": counter_draws.uniform(6, seed=7 << 32 | 5, stream=3, step=2),
        "u8": np.array([0, 255], np.uint8),
    }
    golden_file.finish(args, "self_test", tensors, notes={"what": "one tensor of every dtype"})


if __name__ == "__main__":
    main()
