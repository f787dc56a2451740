"""A PNG writer for test images of kinds that Pillow does not write: 2 and 4 bit gray, 16 bit colour, Adam7."""

import struct
import zlib

import numpy as np

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
# Row and column of the first pixel of each pass, and the steps between pixels (PNG specification, section 8.2).
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(samples, depth):
    """Filter 0 and packed samples of every row of [height, width, channels]."""
    height = samples.shape[0]
    flat = samples.reshape(height, -1)
    if depth == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in flat)
    if depth == 8:
        return b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in flat)
    bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    return b"".join(b"\0" + np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits)


def png(samples, kind, depth, palette=None, transparency=None, interlace=False, gamma=None):
    """`samples`: [height, width, channels] of whole numbers below 2^depth; `transparency`: bytes of tRNS."""
    height, width, channels = samples.shape
    assert channels == CHANNELS[kind]
    data = b"\x89PNG\r\n\x1a\n"
    data += _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlace)))
    if gamma:
        data += _chunk(b"gAMA", struct.pack(">I", gamma))
    if palette is not None:
        data += _chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparency is not None:
        data += _chunk(b"tRNS", transparency)
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlace else [samples]
    raw = b"".join(_rows(part, depth) for part in passes if part.size)
    return data + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")
