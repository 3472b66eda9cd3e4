"""Files that Pillow opens for their pixels alone: metadata and Pillow's limits do not decide what can be read."""

import io
import struct
import zlib
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

_PNG = b"\x89PNG\r\n\x1a\n"
# What a PNG's pixels depend on. All other chunks are texts, profiles, dates and frames that come after the first.
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_EXIF_CHUNK = b"eXIf"
_ORIENTATION = 0x0112
# What begins as one of these is one; of others Pillow is not sure at the beginning.
_FORMS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(file: BinaryIO) -> Any:
    """As `PIL.Image.open`, without its limit on the number of pixels, and for a PNG without its texts.

    Args:
        file: open for reading bytes; it stays open.

    Returns:
        A PIL image, of which nothing but the head may have been read.

    Raises:
        UnidentifiedImageError: if it is no image; and whatever else Pillow raises.
        ValueError: if it begins as one, and goes on as none.
    """
    head = file.read(16)
    if head.startswith(_PNG):
        file.seek(0)
        file = io.BytesIO(_pixels_of_png(file.read()))
    Image.init()
    failure: Exception = UnidentifiedImageError()
    # Image.open goes the same way, and then refuses large pictures by a setting that all of a process has in common.
    for name in Image.ID:
        factory, accepts = Image.OPEN[name]
        try:
            verdict = accepts(head) if accepts else True
            if verdict and not isinstance(verdict, str):
                file.seek(0)
                return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            if name in _FORMS and head:
                failure = ValueError(f"a damaged {name} file: {error}")
    raise failure


def upright(image: Image.Image) -> Image.Image:
    """The image, decoded, turned as its EXIF data say; as it is if those cannot be read."""
    image.load()  # First: Pillow turns a TIFF by itself when it is loaded, and then forgets its orientation.
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Damaged metadata raise whatever they meet.
        orientation = None
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _pixels_of_png(content):
    """A PNG file's bytes with the chunks that make its pixels, and its EXIF data if they are whole."""
    kept, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        chunk = content[place : place + length + 12]
        if name in _PIXEL_CHUNKS or (name == _EXIF_CHUNK and _is_whole(chunk)):
            kept.append(chunk)
        place += length + 12
    return b"".join(kept)


def _is_whole(chunk):
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
