"""Files that are seldom, or damaged where it does not matter: read as they look, or named with the true reason."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from tests.support.images import all_of
from tests.support.picture_folders import UNREADABLE, encoded, make, with_chunk
from tf_blurdiff.data import pictures
from tf_blurdiff.data.pictures import DataError, decode, read_image
from tf_blurdiff.data.sources import open_images

# Light above, black below.
PIXELS = np.zeros((16, 16, 3), np.uint8)
PIXELS[:8] = 200
IMAGE = Image.fromarray(PIXELS)
GREY = IMAGE.convert("L")
PNG = encoded(IMAGE, "PNG")
ABOVE = GREY.point(lambda value: 255 if value else 0)  # An alpha channel that shows the upper half.
CLEAR = Image.merge("RGBA", [*IMAGE.split(), ABOVE])
BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"
TURNED = Image.Exif()
TURNED[0x0112] = 6
AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of_16_bits(values, colour_type, transparent=b""):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.astype(np.uint16) * 257)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0))
    hidden = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + hidden + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def of_12_bits(values):
    """A TIFF, written by hand: two pixels in three bytes."""
    left, right = np.split((values.astype(int) * 4095 // 255).reshape(-1, 2), 2, axis=1)
    packed = np.hstack([left >> 4, (left & 15) << 4 | right >> 8, right & 255]).astype(np.uint8).tobytes()
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 16, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + packed


def tiff_with_a_broken_exif_pointer():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[34665] = 999_999
    return encoded(IMAGE, "TIFF", tiffinfo=tags)


def corners(content, channels=3, **options):
    """The values of 2x2 pixels, of the first channel, row by row."""
    pixels = decode(io.BytesIO(content), (2, 2, channels), **options)
    assert np.ptp(pixels, axis=-1).max() <= 8
    return pixels[..., 0].ravel().tolist()


UPRIGHT = {
    "png": PNG,
    "webp": encoded(IMAGE, "WEBP", lossless=True),
    "tiff": encoded(IMAGE, "TIFF"),
    "tiff of 16 bits": encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "TIFF"),
    "tiff of 12 bits": of_12_bits(PIXELS[..., 0]),
    "tiff of 16 bits, white is 0": encoded(
        Image.fromarray(65535 - PIXELS[..., 0].astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0}
    ),
    "png of 16 bits": png_of_16_bits(PIXELS, 2),
    "cmyk": encoded(IMAGE.convert("CMYK"), "JPEG", quality=100),
    "tiff in cmyk": encoded(IMAGE.convert("CMYK"), "TIFF"),
    "animated gif": encoded(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(90)]),
    "animated webp": encoded(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(90)], lossless=True),
    "animated png": encoded(IMAGE, "PNG", save_all=True, append_images=[IMAGE.rotate(90)]),
    "two pages": encoded(IMAGE, "TIFF", save_all=True, append_images=[IMAGE.rotate(90)]),
    "jpeg, broken exif": encoded(IMAGE, "JPEG", quality=100, exif=BROKEN_EXIF),
    "webp, broken exif": encoded(IMAGE, "WEBP", lossless=True, exif=BROKEN_EXIF),
    "png, broken exif": with_chunk(PNG, b"eXIf", BROKEN_EXIF[6:]),
    "png, damaged exif": with_chunk(PNG, b"eXIf", TURNED.tobytes()[6:], damaged=True),
    "tiff, broken exif": tiff_with_a_broken_exif_pointer(),
    "jpeg, empty exif": encoded(IMAGE, "JPEG", quality=100, exif=b"Exif\0\0"),
    "jpeg, broken profile": encoded(IMAGE, "JPEG", quality=100, icc_profile=b"nonsense"),
    "png, long text": with_chunk(PNG, b"zTXt", b"a\0\0" + zlib.compress(b"x" * 3_000_000)),
    "png, long international text": with_chunk(PNG, b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
    "png, long profile": with_chunk(PNG, b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000))),
    "png, damaged text": with_chunk(PNG, b"tEXt", b"a\0b", damaged=True),
    "png, short gamma": with_chunk(PNG, b"gAMA", b""),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("content", UPRIGHT.values(), ids=UPRIGHT)
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_all_forms_are_read(content, channels):
    np.testing.assert_allclose(corners(content, channels), [200, 200, 0, 0], atol=4)


LOOKS_CLEAR = {
    "rgba": encoded(CLEAR, "PNG"),
    "grey and alpha": encoded(Image.merge("LA", [GREY, ABOVE]), "PNG"),
    "palette": encoded(GREY.convert("P"), "PNG", transparency=0),
    "a palette's alphas": encoded(GREY.convert("P"), "PNG", transparency=bytes([0] + [255] * 255)),
    "a colour": encoded(IMAGE, "PNG", transparency=(0, 0, 0)),
    "a grey": encoded(GREY, "PNG", transparency=0),
    "a colour of 16 bits": png_of_16_bits(PIXELS, 2, struct.pack(">HHH", 0, 0, 0)),
    "a grey of 16 bits": png_of_16_bits(PIXELS[..., 0], 0, struct.pack(">H", 0)),
    "gif": encoded(GREY.convert("P"), "GIF", transparency=0),
    "webp": encoded(CLEAR, "WEBP", lossless=True, exact=True),
    "tiff": encoded(CLEAR, "TIFF"),
}


@pytest.mark.parametrize("content", LOOKS_CLEAR.values(), ids=LOOKS_CLEAR)
def test_what_is_transparent_is_background(content):
    for channels in (1, 3):
        assert corners(content, channels) == [200, 200, 255, 255]
        assert corners(content, channels, background="black") == [200, 200, 0, 0]
    assert corners(content, background="#404040") == [200, 200, 64, 64]


def test_half_transparent_is_half_background():
    half = Image.merge("RGBA", [*IMAGE.split(), Image.new("L", IMAGE.size, 51)])
    assert corners(encoded(half, "PNG")) == [244, 244, 204, 204]  # 0.2 and 0.8 of each.


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_cameras_rotations_are_undone_in_all_forms(kind):
    quality = {} if kind in ("PNG", "TIFF") else {"quality": 100}
    content = encoded(IMAGE.resize((64, 64), Image.Resampling.NEAREST), kind, exif=TURNED, **quality)
    np.testing.assert_allclose(corners(content), [0, 200, 0, 200], atol=6)


@pytest.mark.parametrize("orientation", range(9))
def test_every_orientation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters = Image.fromarray(np.repeat(np.repeat(np.array([[10, 20], [30, 40]], np.uint8), 8, 0), 8, 1))
    # As the EXIF standard has it: where the stored row 0 and column 0 are to be seen.
    seen = {
        2: [20, 10, 40, 30], 3: [40, 30, 20, 10], 4: [30, 40, 10, 20], 5: [10, 30, 20, 40], 6: [30, 10, 40, 20],
        7: [40, 20, 30, 10], 8: [20, 40, 10, 30],
    }  # fmt: skip
    assert corners(encoded(quarters, "PNG", exif=exif)) == seen.get(orientation, [10, 20, 30, 40])


REFUSED = {
    "32 bits, as if 8": (encoded(Image.fromarray(PIXELS[..., 0].astype(np.int32)), "TIFF"), "numbers from 0 to 200; "),
    "floats": (
        encoded(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"),
        "numbers from 0 to 200; ",
    ),
    "32 bits": (encoded(Image.fromarray(PIXELS[..., 0].astype(np.int32) * 10**6), "TIFF"), "numbers from 0 to 2e+08"),
    "half a png": (PNG[: len(PNG) // 2], "a damaged PNG file: "),
    "a png's head": (PNG[:20], "Truncated File Read"),
    "a png without its end": (PNG[:-30], "truncated"),
    "half a jpeg": (UPRIGHT["cmyk"][: len(UPRIGHT["cmyk"]) - 100], "Truncated File Read"),
    "half a webp": (UPRIGHT["webp"][:40], ""),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "not an image; expected a whole .bmp, "),
    "nothing": (b"", "not an image; expected a whole .bmp, "),
}


@pytest.mark.parametrize("content, reason", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, content, reason):
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "x.tif", (2, 2, 3))
    assert str(caught.value).startswith(f"cannot read the image '{tmp_path / 'x.tif'}' (") and reason in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_named_so(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the image '.*x.png' \(No such file or directory\)$"):
        read_image(tmp_path / "x.png", (2, 2, 3))


@pytest.mark.filterwarnings("error")
def test_a_picture_above_pillows_limit_is_read_and_the_limit_is_left_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert corners(PNG) == [200, 200, 0, 0]
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_picture_that_no_memory_holds_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 255)
    (tmp_path / "x.png").write_bytes(PNG)
    with pytest.raises(DataError, match=r"\(it has 16x16 pixels, more than 255\)"):
        read_image(tmp_path / "x.png", (2, 2, 3))
    # A JPEG is decoded smaller, and then is no longer too large.
    (tmp_path / "x.jpg").write_bytes(encoded(IMAGE.resize((64, 64)), "JPEG"))
    assert read_image(tmp_path / "x.jpg", (2, 2, 3)).shape == (2, 2, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_folder_with_one_of_each_odd_file(tmp_path, capsys):
    *_, odd, _ = make(tmp_path, count=9)
    images = open_images("image_folder", 8, 3, root=odd, labels="folders")
    assert images.class_names == ("boots", "hats", "shoes")
    assert all_of(images).shape == (images.num_images, 8, 8, 3)
    named = capsys.readouterr().err.splitlines()
    assert sorted(os.path.basename(name) for name in UNREADABLE) == sorted(
        {line.split("'")[1].split("/")[-1] for line in named}
    )
    for left_out in (".heic (1)", "broken links (1)", "links to folders that are listed already (1)", "hidden (1)"):
        assert left_out in images.summary
