"""Few-shot linear evaluation by numpy and scipy, in f64, on features made here.

The protocol is that of big_vision's evaluators/fewshot_lsr.py. Features are drawn so that the regression is neither
trivial nor hopeless; two of them are constant, class 3 has no image to learn from, class 5 has 4 and class 7 has 20,
fewer than the greatest number of shots. With 1 or 2 shots there are fewer rows than columns, else more: both the
decomposition of XX' and the one of X'X occur.

For every seed, number of shots and l2: the predictions, and by how much the best score of each image exceeds the
second. Permutations of numpy's generator are stored as well.
"""

import numpy as np
import scipy.linalg

import golden_file

CLASSES, WIDTH, SUPPORT, DATA = 9, 24, 260, 300
SHOTS, L2, SEEDS = [1, 2, 5, 10, 25], [2.0**-10, 1.0, 2.0**10, 2.0**19], [0, 1, 2]
PERMUTED = [0, 1, 2, 7, 100, 5000]
PERMUTATION_SEEDS = [0, 1, 2, 99, 2**32 + 5]


def make_set(generator, centres, scale, images, absent=()):
    labels = generator.choice([c for c in range(CLASSES) if c not in absent], images)
    features = centres[labels] + 1.6 * generator.standard_normal((images, WIDTH))
    features *= scale
    features[:, 4] = 0.0
    features[:, 11] = 3.7
    return features.astype(np.float32), labels.astype(np.int32)


def inputs():
    generator = np.random.default_rng(20210608)
    scale = 10.0 ** generator.uniform(-2, 2, WIDTH)
    centres = generator.standard_normal((CLASSES, WIDTH))
    support, labels = make_set(generator, centres, scale, SUPPORT, absent=(3,))
    for label, kept in ((5, 4), (7, 20)):
        found = np.flatnonzero(labels == label)
        labels[found[kept:]] = 8
    data, data_labels = make_set(generator, centres, scale, DATA)
    return support, labels, data, data_labels


def draw(labels, seed):
    generator = np.random.default_rng(seed)
    return [generator.permutation(np.flatnonzero(labels == c)) for c in range(CLASSES)]


def solve(x, y, l2):
    if x.shape[0] >= x.shape[1]:
        values, vectors = scipy.linalg.eigh(x.T @ x)
        return vectors @ ((vectors.T @ (x.T @ y)) / (values + l2)[:, None])
    values, vectors = scipy.linalg.eigh(x @ x.T)
    return x.T @ (vectors @ ((vectors.T @ y) / (values + l2)[:, None]))


def scores(support, labels, data, chosen, l2):
    x = support[chosen].astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-5
    prepare = lambda f: np.pad((f.astype(np.float64) - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0)
    y = 2.0 * (labels[chosen][:, None] == np.arange(CLASSES)) - 1.0
    return prepare(data) @ solve(prepare(support[chosen]), y, l2)


def main():
    args = golden_file.arguments(__doc__)
    support, labels, data, data_labels = inputs()
    tensors = {"support": support, "support_labels": labels, "data": data, "data_labels": data_labels,
               "shots": np.array(SHOTS, np.int32), "l2": np.array(L2), "seeds": np.array(SEEDS, np.int64)}
    for seed in PERMUTATION_SEEDS:
        generator = np.random.default_rng(seed)
        tensors[f"permutations/{seed}"] = np.concatenate([generator.permutation(np.arange(n)) for n in PERMUTED])
    tensors["permuted"] = np.array(PERMUTED, np.int64)
    predicted = np.zeros((len(SEEDS), len(SHOTS), len(L2), DATA), np.uint8)
    margins = np.zeros(predicted.shape, np.float32)
    for s, seed in enumerate(SEEDS):
        drawn = draw(labels, seed)
        tensors[f"drawn/{seed}"] = np.concatenate([indices[: max(SHOTS)] for indices in drawn])
        for k, shots in enumerate(SHOTS):
            chosen = np.concatenate([indices[:shots] for indices in drawn])
            for i, l2 in enumerate(L2):
                z = scores(support, labels, data, chosen, l2)
                predicted[s, k, i] = z.argmax(axis=1)
                best = np.sort(z, axis=1)
                margins[s, k, i] = best[:, -1] - best[:, -2]
    tensors["predicted"], tensors["margins"] = predicted, margins
    tensors["accuracy"] = (predicted == data_labels).mean(axis=(0, 3))
    print("accuracy by shots (rows) and l2:\n", tensors["accuracy"].round(3), "\nsmallest margin", margins.min())
    # Margins in f32: relative rounding of 6e-8, far from the 1e-9 at which they count.
    golden_file.finish(args, "few_shot", tensors, tolerance={np.dtype(np.float32): 1e-6})


if __name__ == "__main__":
    main()
