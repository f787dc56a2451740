"""Inputs of golden values that need no place in a file: drawn_values.h draws the same bits."""

import numpy as np


def uniform(stream, count):
    """count values in [-1, 1), multiples of 2^-23; one sequence for each stream. The 64 bits are those of SplitMix64's
    output function (Steele, Lea, Flood 2014) of the counter stream * 2^32 + index."""
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(stream << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
