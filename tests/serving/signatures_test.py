"""The signatures that an export can have beside the default, and what they refuse."""

import json
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.picture_folders import encoded
from tf_blurdiff.data.pixels import to_uint8, to_unit_range
from tf_blurdiff.serving.verification import verify

SEEDS = np.array([5, -7, 2**60])
TASKS = ("image_to_image", "deblur", "super_resolution", "inpaint")


@pytest.fixture(scope="module")
def signatures(restoring_export):
    return tf.saved_model.load(str(restoring_export)).signatures


def inputs(name, **changes):
    """Allowed inputs of a signature of pixels, with some of them changed."""
    rng = np.random.default_rng(0)
    values = {"seed": SEEDS, "label": np.array([0, 3, 2]), "guidance_scale": np.array([1.0, 1.0, 2.0], "float32")}
    if name in TASKS:
        values["image"] = rng.integers(0, 256, (3, *((4, 4) if name == "super_resolution" else (8, 8)), 1), "uint8")
    own = {
        "image_to_image": {"strength": np.array([0.2, 0.6, 1.0], "float32")},
        "deblur": {"blur_sigma": np.array([0.0, 0.5, 1.0], "float32")},
        "inpaint": {"mask": 255 * rng.integers(0, 2, (3, 8, 8, 1), "uint8")},
    }
    return values | own.get(name, {}) | changes


def call(signatures, name, values):
    (answer,) = signatures[name](**{key: tf.constant(value) for key, value in values.items()}).values()
    return answer.numpy()


def as_files(values):
    """The inputs of the signature of PNG files."""
    pictures = {key for key, value in values.items() if np.ndim(value) == 4}
    files = {f"{key}_bytes": [tf.io.encode_png(picture).numpy() for picture in values[key]] for key in pictures}
    return {key: value for key, value in values.items() if key not in pictures} | files


def by_the_model(model, name, values):
    """The same images by the model's methods, one row at a time."""
    rows = ({key: value[row : row + 1] for key, value in values.items()} for row in range(3))
    return np.concatenate([to_uint8(row_by_the_model(model, name, **row)).numpy() for row in rows])


def row_by_the_model(model, name, seed, label, guidance_scale, image=None, strength=None, blur_sigma=None, mask=None):
    how = {"seeds": seed, "labels": None if label[0] == 3 else label, "guidance_scale": guidance_scale}
    image = None if image is None else to_unit_range(image).numpy()
    if name == "steps_2":
        return model.sample(num_steps=2, **how)
    if name == "image_to_image":
        return model.sample(num_steps=4, images=image, strength=float(strength[0]), **how)
    if name == "deblur":
        return model.deblur(image, blur_sigma, **how)
    return model.super_resolve(image, **how) if name == "super_resolution" else model.inpaint(image, mask, **how)


SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("deblur", "super_resolution")]


@pytest.mark.parametrize("name", ["steps_2", "image_to_image", "inpaint", *SLOWLY])
def test_an_export_gives_what_the_model_gives(restoring_model, signatures, name):
    values = inputs(name)
    expected = by_the_model(restoring_model, name, values).astype(int)
    assert np.abs(call(signatures, name, values).astype(int) - expected).max() <= 1
    files = call(signatures, f"png_{name}", as_files(values))
    decoded = np.stack([tf.io.decode_png(file).numpy() for file in files]).astype(int)
    assert np.abs(decoded - expected).max() <= 1


@pytest.mark.parametrize("name", ["serving_default", *TASKS])
def test_of_nothing_there_are_no_images(signatures, name):
    values = {key: value[:0] for key, value in inputs(name).items()}
    assert call(signatures, name, values).shape == (0, 8, 8, 1)
    files = {key: np.array(value, "S") if key.endswith("_bytes") else value for key, value in as_files(values).items()}
    assert call(signatures, "png" if name == "serving_default" else f"png_{name}", files).shape == (0,)


@pytest.mark.slow
def test_the_cpp_runtime_gives_the_known_images_of_all(restoring_export):
    assert verify(restoring_export) <= 1


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("serving_default", {"label": np.array([0, 4, 1])}, r"label must be in \[0, 3\].*0 4 1"),
        ("serving_default", {"label": np.array([-1, 0, 1])}, r"label must be in \[0, 3\]"),
        ("serving_default", {"label": np.array([1])}, "label must have as many rows as seed"),
        ("serving_default", {"label": np.array([1, 1, 1, 1])}, "label must have as many rows as seed"),
        ("steps_2", {"guidance_scale": np.array([1, np.nan, 1], "float32")}, "guidance_scale must be from 0 to"),
        (
            "serving_default",
            {"guidance_scale": np.array([1, 1, np.inf], "float32")},
            "guidance_scale must be from 0 to 1,000,000",
        ),
        ("image_to_image", {"strength": np.array([0.0, 1, 1], "float32")}, r"strength must be in \(0, 1\]"),
        ("image_to_image", {"strength": np.array([1, 1.5, 1], "float32")}, r"strength must be in \(0, 1\].*1\.5"),
        ("image_to_image", {"strength": np.array([np.nan, 1, 1], "float32")}, r"strength must be in \(0, 1\]"),
        ("deblur", {"blur_sigma": np.array([-1, 1, 1], "float32")}, "blur_sigma must be from 0 to 1,000,000"),
        # Its square is no number any more, and the image would be black.
        ("deblur", {"blur_sigma": np.array([1, 1, 1e20], "float32")}, "blur_sigma must be from 0 to 1,000,000"),
        ("inpaint", {"mask": np.zeros((2, 8, 8, 1), "uint8")}, "mask must have as many rows as seed"),
    ],
)
@pytest.mark.parametrize("form", ["pixels", "files"])
def test_a_wrong_value_is_named(signatures, name, change, message, form):
    values = inputs(name, **change)
    if form == "files":
        name, values = "png" if name == "serving_default" else f"png_{name}", as_files(values)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(signatures, name, values)


def png_that_claims(width, height):
    """The beginning of a grey PNG of that size, without its pixels."""
    size = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))


@pytest.mark.parametrize(
    "file, message",
    [
        (np.zeros((9, 8, 1), "uint8"), r"image_bytes must hold pictures of .* \(8, 8, 1\).*9 8 1"),
        (b"no picture", "image_bytes must hold PNG, JPEG or GIF files"),
        # What would take a gigabyte is not decoded; nor is what ends before it says its size.
        (png_that_claims(30_000, 30_000), r"image_bytes must hold pictures of .* \(8, 8, 1\).*30000 30000 1"),
        (png_that_claims(8, 8)[:20], r"image_bytes must hold pictures of .* \(8, 8, 1\).*0 8 1"),
    ],
)
def test_a_wrong_picture_is_named(signatures, file, message):
    values = as_files(inputs("deblur"))
    values["image_bytes"][1] = file if isinstance(file, bytes) else tf.io.encode_png(file).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(signatures, "png_deblur", values)


def test_the_manifest_says_what_each_signature_means(restoring_model, restoring_export, signatures):
    manifest = json.loads((restoring_export / "assets.extra" / "manifest.json").read_text())
    assert manifest["signatures"].keys() == signatures.keys()
    for name, described in manifest["signatures"].items():
        specs = signatures[name].structured_input_signature[1]
        assert {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in specs.items()} == {
            key: (entry["dtype"], entry["shape"]) for key, entry in described["inputs"].items()
        }
        assert described["meaning"] and all(entry["meaning"] for entry in described["inputs"].values())
    assert manifest["sampling"]["num_steps"] == 4 and manifest["model_sha256"] == restoring_model.fingerprint()
    assert {"tensorflow", "keras", "tf_blurdiff"} <= manifest["versions"].keys()


def exif(orientation, order):
    """EXIF data with an orientation among other tags."""
    data = Image.Exif()
    data[0x0112], data[0x010F], data[0x0131] = orientation, "a camera", "a program"
    data.endian = order
    return data.tobytes()


def xmp(orientation):
    return f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "TIFF", None])
def test_files_of_other_forms_are_refused(signatures, kind):
    other = encoded(Image.new("L", (8, 8)), kind) if kind else b""
    values = as_files(inputs("image_to_image"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes must hold PNG, JPEG or GIF files"):
        call(signatures, "png_image_to_image", values | {"image_bytes": [other] * 3})


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pictures_must_be_upright(signatures, kind, order):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    values = as_files(inputs("image_to_image"))
    for orientation in (1, 2, 6, 8):
        files = [encoded(image, kind), encoded(image, kind, exif=exif(orientation, order)), encoded(image, kind)]
        if orientation == 1:
            call(signatures, "png_image_to_image", values | {"image_bytes": files})
        else:
            with pytest.raises(
                tf.errors.InvalidArgumentError, match="image_bytes must hold upright pictures: turn them"
            ):
                call(signatures, "png_image_to_image", values | {"image_bytes": files})


def test_pictures_must_be_upright_by_xmp_too(signatures):
    image, values = Image.new("L", (8, 8)), as_files(inputs("image_to_image"))
    call(signatures, "png_image_to_image", values | {"image_bytes": [encoded(image, "JPEG", xmp=xmp(1))] * 3})
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes must hold upright pictures"):
        call(signatures, "png_image_to_image", values | {"image_bytes": [encoded(image, "JPEG", xmp=xmp(6))] * 3})


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_in_pictures_is_white(signatures, mode):
    rng = np.random.default_rng(0)
    picture, alpha = (Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(2))
    clear = picture.convert(mode)
    clear.putalpha(alpha)
    shown = Image.new("L", (8, 8), 255)
    shown.paste(picture, mask=alpha)
    values = inputs("image_to_image") | {"strength": np.full(3, 1e-3, "float32")}
    ours, expected = (
        call(signatures, "png_image_to_image", as_files(values) | {"image_bytes": [encoded(each, "PNG")] * 3})
        for each in (clear, shown)
    )
    ours, expected = (np.stack([tf.io.decode_png(file) for file in files]).astype(int) for files in (ours, expected))
    assert np.abs(ours - expected).max() <= 1
