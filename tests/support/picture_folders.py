"""Makes three folders of pictures, as people have them.

    python -m tests.support.picture_folders OUT [--count 300]

OUT/mixed   JPEGs in three sub-folders (boots, hats, shoes), of mixed sizes
OUT/odd     the same, with one of each odd file in its sub-folders
OUT/wide    64x48 in colour, as PNGs
"""

import argparse
import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, features

CLASSES = ("boots", "hats", "shoes")
# Of odd_files: those that no program could read.
UNREADABLE = ("boots/truncated.png", "boots/empty.jpg", "hats/text.jpg")


def picture(number, width, height):
    """A ramp in the colour of the picture's class, lighter or darker by its number."""
    y, x = np.mgrid[0:height, 0:width]
    ramp = (40 + 120 * x / width + 60 * y / height + number % 30).astype(np.uint8)
    channels = [np.zeros_like(ramp)] * 3
    channels[number % 3] = ramp
    return Image.fromarray(np.stack(channels, -1))


def mixed(folder, count):
    """JPEGs whose shorter sides are from 40 to 99 pixels."""
    for number in range(count):
        width, height = 40 + number * 7 % 60, 40 + number * 11 % 60
        path = folder / CLASSES[number % 3] / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, width, height).save(path, quality=90)


def wide(folder, count):
    """64x48 PNGs (width x height)."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture(number, 64, 48).save(folder / f"{number:03}.png")


def odd(folder):
    """One of each odd file, beside others."""
    image = picture(0, 64, 64)
    for name, content in odd_files(image).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "hats" / "caf\u00e9 \u5e3d\u5b50.jpg").write_bytes(encoded(image, "JPEG"))
    with open(os.fsencode(folder) + b"/shoes/\xff\xfe.jpg", "wb") as file:
        file.write(encoded(image, "JPEG"))
    shutil.copytree(folder / "hats", folder.with_name(f"{folder.name} elsewhere"))
    (folder / "shoes" / "linked").symlink_to(folder.with_name(f"{folder.name} elsewhere"))
    (folder / "shoes" / "around").symlink_to(folder)
    (folder / "shoes" / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "shoes" / "link.jpg").symlink_to(folder / "boots" / "cmyk.jpg")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "top.jpg").write_bytes(encoded(image, "JPEG"))
    (folder / "boots" / ".hidden.jpg").write_text("a thumbnail")
    (folder / "boots" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")


def odd_files(image):
    """name -> bytes."""
    turned, clear = Image.Exif(), image.convert("RGBA")
    turned[0x0112] = 6
    clear.putalpha(image.convert("L").point(lambda value: 255 if value > 40 else 0))
    palette, again = image.convert("P", palette=Image.Palette.ADAPTIVE), [image.rotate(90)]
    png = encoded(image, "PNG")
    files = {
        "boots/cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "boots/16bit.png": encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
        "boots/palette.png": encoded(palette, "PNG", transparency=0),
        "boots/clear.png": encoded(clear, "PNG"),
        "boots/grey alpha.png": encoded(clear.convert("LA"), "PNG"),
        "boots/turned.jpg": encoded(image, "JPEG", exif=turned),
        "boots/truncated.png": png[: len(png) // 2],
        "boots/empty.jpg": b"",
        "hats/photo.webp": encoded(image, "WEBP"),
        "hats/photo.tif": encoded(image, "TIFF"),
        "hats/photo.TIFF": encoded(image, "TIFF", compression="tiff_lzw"),
        "hats/photo.jfif": encoded(image, "JPEG"),
        "hats/animated.gif": encoded(image, "GIF", save_all=True, append_images=again),
        "hats/animated.webp": encoded(image, "WEBP", save_all=True, append_images=again),
        "hats/text.jpg": b"not a picture at all",
        "shoes/pixel.png": encoded(image.resize((1, 1)), "PNG"),
        "shoes/broken exif.jpg": encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"),
        "shoes/long text.png": with_chunk(png, b"zTXt", b"a\0\0" + zlib.compress(b"x" * 80_000_000)),
        "shoes/damaged text.png": with_chunk(png, b"tEXt", b"a\0text", damaged=True),
        # Above the number of pixels that Pillow opens.
        "shoes/huge.png": encoded(Image.new("1", (12_000, 15_000), 1), "PNG"),
    }
    if features.check("avif"):
        files["hats/photo.avif"] = encoded(image, "AVIF")
    return files


def encoded(image, kind, **options):
    """An image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_chunk(png, name, content, damaged=False):
    """A PNG file's bytes with another chunk behind its head, whose check sum is wrong if it is damaged."""
    chunk = struct.pack(">I", len(content)) + name + content
    return png[:33] + chunk + struct.pack(">I", zlib.crc32(name + content) ^ damaged) + png[33:]


def make(out, count=300):
    """All three folders; returns them."""
    folders = [Path(out) / name for name in ("mixed", "odd", "wide")]
    mixed(folders[0], count)
    mixed(folders[1], count)
    odd(folders[1])
    wide(folders[2], count)
    return folders


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--count", type=int, default=300)
    arguments = parser.parse_args()
    print(*make(arguments.out, arguments.count), sep="\n")
