"""Inputs that both sides compute: Philox4x32-10 draws, the same bits as counter_draws.h.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(key, counter):
    """Blocks of Philox4x32-10: `counter` is four broadcastable integer arrays; returns uint32 [..., 4]."""
    c = [np.asarray(word, np.uint64) for word in np.broadcast_arrays(*counter)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        a, b = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [(b >> _HALF) ^ c[1] ^ np.uint64(k[0]), b & _LOW, (a >> _HALF) ^ c[3] ^ np.uint64(k[1]), a & _LOW]
        k = [(k[0] + _WEYL[0]) & 0xFFFFFFFF, (k[1] + _WEYL[1]) & 0xFFFFFFFF]
    return np.stack(c, -1).astype(np.uint32)


def uniform(count, seed, stream, step=0):
    """float32 [count], multiples of 2^-23 in [-1, 1): element i is word i % 4 of block (i / 4, step, stream)."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    words = philox(seed, (block, step, stream, 0)).ravel()[:count]
    return ((words.view(np.int32) >> 8).astype(np.float64) / (1 << 23)).astype(np.float32)


def _self_check():
    # Known answers of the paper's own test suite (Random123, kat_vectors).
    assert [f"{w:08x}" for w in philox(0, (0, 0, 0, 0))] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


_self_check()
