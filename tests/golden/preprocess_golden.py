"""Decoded and resized pixels of TensorFlow, which big_vision's preprocessing calls (pp/ops_image.py).

    python3 -m venv /tmp/tf && /tmp/tf/bin/pip install -r tests/golden/requirements-tensorflow.txt
    /tmp/tf/bin/python tests/golden/preprocess_golden.py [--check]

Tensors: file.<name> (bytes of an image file), decoded.<name>.<channels>; image.<name>, resized.<method>.<name>;
box.<name>, and inception.<height>x<width>.<what>: quantiles of 40,000 crops of sample_distorted_bounding_box.
"""

import io
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from PIL import Image

import golden_file
from png_writer import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, png

LIBRARIES = ("tensorflow-cpu", "pillow", "numpy")
HEIGHT, WIDTH = 37, 53  # odd: no side is a multiple of a JPEG block
CROPS = 40_000
QUANTILES = 1001
# Files that TensorFlow does not turn to gray, or with other weights than Rec. 601.
NO_GRAY = ("jpeg_cmyk", "jpeg_ycck", "webp", "png_rgb", "png_palette", "png_interlaced", "png_gamma")


def picture(height, width, seed):
    """Smooth colours, edges and noise: [height, width, 3] bytes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 5 + y / 7)], -1)
    smooth[height // 4 : height // 2, width // 3 : width // 2] = (250, 5, 130)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def save(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def without_adobe(data):
    """Takes the APP14 segment out of a JPEG."""
    at = data.index(b"\xff\xee")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + data[at + 2 + length :]


def with_adobe_transform(data, transform):
    """Sets how the colours of a JPEG are said to be coded: 2 is YCCK."""
    at = data.index(b"Adobe") + 11
    return data[:at] + bytes([transform]) + data[at + 1 :]


def jpegs(rgb):
    colour = Image.fromarray(rgb)
    cmyk = save(colour.convert("CMYK"), "JPEG", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    return {
        "jpeg_444": save(colour, "JPEG", quality=90, subsampling=0),
        "jpeg_420": save(colour, "JPEG", quality=75, subsampling=2),
        "jpeg_422": save(colour, "JPEG", quality=75, subsampling=1),
        "jpeg_progressive": save(colour, "JPEG", quality=85, progressive=True),
        "jpeg_restart": save(colour, "JPEG", quality=85, restart_marker_blocks=2),
        "jpeg_gray": save(colour.convert("L"), "JPEG", quality=85),
        "jpeg_exif": save(colour, "JPEG", quality=85, exif=exif),
        "jpeg_cmyk_adobe": cmyk,
        "jpeg_cmyk": without_adobe(cmyk),
        "jpeg_ycck": with_adobe_transform(cmyk, 2),
    }


def pngs(rgb):
    gray = rgb[:, :, :1].astype(np.int64)
    colour = rgb.astype(np.int64)
    alpha = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 256
    palette = np.random.default_rng(3).integers(0, 256, (16, 3))
    wide = colour * 256 + (255 - colour)  # 16 bit with a low byte of its own
    files = {f"png_gray{depth}": png(gray >> (8 - depth), GRAY, depth) for depth in (1, 2, 4, 8)}
    return files | {
        "png_gray16": png(gray * 256 + (255 - gray), GRAY, 16),
        "png_gray_trns": png(gray >> 4, GRAY, 4, transparency=b"\0\x05"),
        "png_gray_alpha": png(np.concatenate([gray, alpha], -1), GRAY_ALPHA, 8),
        "png_rgb": png(colour, RGB, 8),
        "png_rgb_trns": png(colour, RGB, 8, transparency=b"\0\xfa\0\x05\0\x82"),
        "png_rgb16": png(wide, RGB, 16),
        "png_rgba": png(np.concatenate([colour, alpha], -1), RGBA, 8),
        "png_rgba16": png(np.concatenate([wide, alpha * 257], -1), RGBA, 16),
        "png_palette": png(gray >> 4, PALETTE, 4, palette=palette),
        "png_palette_trns": png(gray >> 4, PALETTE, 8, palette=palette, transparency=bytes(range(0, 240, 20))),
        "png_interlaced": png(colour, RGB, 8, interlace=True),
        "png_gray2_interlaced": png(gray >> 6, GRAY, 2, interlace=True),
        "png_gamma": png(colour, RGB, 8, gamma=100000),
    }


def webps(rgb):
    colour = Image.fromarray(rgb)
    alpha = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 256
    clear = Image.fromarray(np.concatenate([rgb, alpha.astype(np.uint8)], -1))
    return {
        "webp_lossy": save(colour, "WEBP", quality=80),
        "webp_lossless": save(colour, "WEBP", lossless=True),
        "webp_alpha": save(clear, "WEBP", quality=80, exact=True),
        "webp_lossless_alpha": save(clear, "WEBP", lossless=True, exact=True),
    }


def decode(data, channels):
    if channels == 3 and data[:4] == b"RIFF":  # TensorFlow gives WebP with alpha only as such
        return tf.io.decode_webp(data, channels=0).numpy()[0, :, :, :3]
    return tf.io.decode_image(data, channels=channels, expand_animations=False).numpy()


def luma(rgb):
    """Rec. 601, by Pillow: where TensorFlow has no gray (CMYK, WebP) or another one (PNG in colour)."""
    return np.array(Image.fromarray(rgb).convert("L"))[:, :, None]


def decoded(tensors):
    rgb = picture(HEIGHT, WIDTH, 1)
    for name, data in (jpegs(rgb) | pngs(rgb) | webps(rgb)).items():
        tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
        colour = decode(data, 3)
        tensors[f"decoded.{name}.3"] = colour
        tensors[f"decoded.{name}.1"] = luma(colour) if name.startswith(NO_GRAY) else decode(data, 1)


def cut(image):
    """As big_vision after a resize: to the range of bytes, fractions cut."""
    return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8).numpy()


def small_sides(height, width, side):
    ratio = tf.cast(side, tf.float32) / tf.cast(min(height, width), tf.float32)
    return tuple(int(tf.cast(tf.round(tf.cast(s, tf.float32) * ratio), tf.int32)) for s in (height, width))


def resized(tensors):
    images = {"rgb": picture(45, 61, 2), "gray": picture(61, 45, 4)[:, :, :1], "flat": np.full((9, 7, 3), 201, np.uint8)}
    for name, image in images.items():
        tensors[f"image.{name}"] = image
        for height, width in ((16, 16), (32, 20), (45, 61), (64, 64), (1, 1), (90, 30)):
            bilinear = tf.image.resize(image, (height, width), "bilinear", antialias=False)
            tensors[f"resized.bilinear.{name}.{height}x{width}"] = cut(bilinear)
            tensors[f"resized.area.{name}.{height}x{width}"] = cut(tf.image.resize(image, (height, width), "area"))
    sides = [(375, 500, 256), (500, 333, 256), (61, 45, 32), (100, 3, 7), (1200, 1197, 224), (90, 60, 25)]
    tensors["small_sides"] = np.array([s + small_sides(*s) for s in sides], np.int32)


def pipelines(tensors):
    image = tensors["image.rgb"]
    height, width = small_sides(*image.shape[:2], 32)
    small = cut(tf.image.resize(image, (height, width), "area"))
    top, left = (height - 28) // 2, (width - 28) // 2
    tensors["pipeline.resize_small_32_central_crop_28"] = small[top : top + 28, left : left + 28]
    square = cut(tf.image.resize(image, (32, 32), "bilinear", antialias=False))
    tensors["pipeline.resize_32_central_crop_28"] = square[2:30, 2:30]
    boxes = np.array([[3, 5, 30, 41], [0, 0, 45, 61], [40, 10, 4, 3], [7, 20, 28, 28]], np.int32)
    tensors["boxes"] = boxes
    for i, (top, left, height, width) in enumerate(boxes):
        crop = tf.slice(image, (top, left, 0), (height, width, 3))
        tensors[f"boxed.{i}"] = cut(tf.image.resize(crop, (28, 28), "bilinear", antialias=False))
    pixels = tf.cast(tf.range(256), tf.float32)
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-2.5, 0.75)):
        tensors[f"value_range.{low}.{high}"] = (low + (pixels - 0.0) / (255.0 - 0.0) * (high - low)).numpy()


def inception(tensors):
    for height, width, low, high in ((375, 500, 5, 100), (100, 40, 5, 100), (64, 64, 25, 60)):

        @tf.function
        def boxes():
            def one(i):
                begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                    (height, width, 3), tf.zeros([0, 0, 4]), seed=[1, i], area_range=(low / 100, high / 100),
                    min_object_covered=0, use_image_if_no_bounding_boxes=True)
                return tf.stack([begin[0], begin[1], size[0], size[1]])
            return tf.map_fn(one, tf.range(CROPS), fn_output_signature=tf.int32)

        drawn = np.sort(boxes().numpy(), axis=0)
        at = np.linspace(0, CROPS - 1, QUANTILES).round().astype(int)
        for column, what in enumerate(("top", "left", "height", "width")):
            tensors[f"inception.{height}x{width}x{low}x{high}.{what}"] = drawn[at, column].astype(np.int32)


def main():
    args = golden_file.arguments(__doc__)
    tensors = {}
    decoded(tensors)
    resized(tensors)
    pipelines(tensors)
    inception(tensors)
    golden_file.finish(args, "preprocess", tensors, notes={"crops": CROPS}, libraries=LIBRARIES)


if __name__ == "__main__":
    main()
