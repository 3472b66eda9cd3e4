"""What restoring signatures take beside seeds: pictures and numbers, held against the endpoint's metadata."""

import io
import math
import os
import re

import numpy as np
from absl import flags
from PIL import Image, ImageOps, UnidentifiedImageError

from .command_line import LARGEST, ClientError
from .image_grid import MODES

_IMAGE = flags.DEFINE_multi_string("image", [], "Picture to start from: one for all seeds, or again for each seed.")
_MASK = flags.DEFINE_multi_string("mask", [], "Picture that is not black where to fill in; one, or as many as seeds.")
_STRENGTH = flags.DEFINE_list("strength", [], "How much is changed, in (0, 1]; one number, or as many as seeds.")
_BLUR_SIGMA = flags.DEFINE_list("blur_sigma", [], "The blur to undo, in pixels; one number, or as many as seeds.")

_PICTURES, _NUMBERS = {"image", "mask"}, {"strength", "blur_sigma"}
_FILE = "_bytes"  # ends the name of an input of PNG files; that of the pixels' signature is the same without
_FLAGS = {"seed": "--seeds", "label": "--labels"}  # of other inputs: their names
_OF_SEEDS_ALONE = r"serving_default|png|(png_)?steps_\d+"


def given_inputs() -> dict[str, list[str]]:
    """What the flags give: input names -> file names or numbers, as texts."""
    holders = {"image": _IMAGE, "mask": _MASK, "strength": _STRENGTH, "blur_sigma": _BLUR_SIGMA}
    return {name: holder.value for name, holder in holders.items() if holder.value}


def are_needed(signature: str, given: dict[str, list[str]]) -> bool:
    """Whether the signature takes more than seeds, labels and a scale, or more is given."""
    return bool(given) or not re.fullmatch(_OF_SEEDS_ALONE, signature)


def complete(
    inputs: dict[str, np.ndarray],
    given: dict[str, list[str]],
    signature: str,
    signatures: dict[str, dict[str, tuple[int, ...]]],
) -> dict[str, np.ndarray]:
    """The inputs, and those of `given_inputs`, one row a seed, as the signature wants them.

    Args:
        inputs: input names -> numbers, one a seed.
        given: input names -> texts, one for all seeds or one a seed.
        signature: what is asked.
        signatures: what the endpoint has: signature names -> input names -> sizes, -1 for any.

    Raises:
        ClientError: an input is missing or one too many, or a file is no picture of the right size.
    """
    if signature not in signatures:
        raise ClientError(f"--signature: the model has no {signature!r}, but {', '.join(sorted(signatures))}")
    wanted = signatures[signature]
    _check_names(signature, {name.removesuffix(_FILE) for name in wanted}, {*inputs, *given})
    completed, rows = dict(inputs), len(inputs["seed"])
    # Only the signature of pixels, which has the same name without png_, says how large a picture is to be.
    sizes = signatures.get(signature.removeprefix("png_"), {})
    for name, texts in given.items():
        if len(texts) not in (1, rows):
            raise ClientError(f"--{name}: give one, or one for each of {rows} seeds. Received: {len(texts)}")
        as_file = name + _FILE in wanted
        values = {text: _value(text, name, as_file, sizes.get(name, ()), signature) for text in dict.fromkeys(texts)}
        dtype = np.float32 if name in _NUMBERS else object if as_file else np.uint8
        array = np.array([values[text] for text in texts], dtype)
        completed[name + _FILE * as_file] = np.repeat(array, rows // len(texts), axis=0)
    return completed


def _check_names(signature: str, wanted: set, given: set) -> None:
    inputs = ", ".join(sorted(wanted))
    if unknown := wanted - {"seed", "label", "guidance_scale", *_PICTURES, *_NUMBERS}:
        raise ClientError(f"--signature: this client has no {min(unknown)!r}, and {signature} takes {inputs}")
    if missing := wanted - given:
        flags_missing = " and ".join(sorted(_FLAGS.get(name, f"--{name}") for name in missing))
        raise ClientError(f"signature {signature} needs {flags_missing}: it takes {inputs}")
    if extra := given - wanted:
        flag = _FLAGS.get(min(extra), f"--{min(extra)}")
        raise ClientError(f"{flag}: signature {signature} takes only {inputs}")


def _value(text: str, name: str, as_file: bool, sizes: tuple, signature: str) -> float | bytes | np.ndarray:
    """What is sent for the text of a flag: a number, a PNG file or pixels (uint8 [H, W, C])."""
    if name in _NUMBERS:
        return _number(text, name)
    image = _picture(text, name, sizes, signature)
    if not as_file:
        return np.asarray(image).reshape(image.height, image.width, -1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _upright(opened: Image.Image) -> Image.Image:
    opened.load()
    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # damaged metadata: the pixels are there all the same
        return opened


def _over_white(image: Image.Image) -> Image.Image:
    """What is hidden behind transparency is no part of a picture."""
    if not image.has_transparency_data or image.mode.startswith("I"):
        return image
    layers, white = image.convert("RGBA"), Image.new("RGB", image.size, "white")
    white.paste(layers, mask=layers.getchannel("A"))
    return white


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= LARGEST:
        raise ClientError(f"--{name}: expected a number, in 32 bits. Received: {text!r}")
    return number


def _picture(path: str, name: str, sizes: tuple, signature: str) -> Image.Image:
    """A file as an image of 8 bits in the mode of the signature's channels, held against its size if that is known."""
    try:
        with Image.open(os.path.expanduser(path)) as opened:
            # Of whole numbers of 32 bits or floating-point numbers nothing says which is white.
            if opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG"):
                raise ValueError("its pixels have more than 16 bits")
            image = _over_white(_upright(opened))
            if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion clips at 255
                image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    except Exception as error:  # what Pillow raises depends on where the damage is
        reason = (
            "no picture" if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None) or error
        )
        raise ClientError(f"--{name}: cannot read {path}: {' '.join(str(reason).split())}") from None
    if len(sizes) != 4:
        return image.convert("L" if name == "mask" else "RGB")
    _, height, width, channels = sizes
    if channels not in MODES:
        raise ClientError(f"--signature: {signature} takes images of {channels} channels, which no picture has")
    if image.size != (width, height):
        raise ClientError(
            f"--{name}: {path} is {image.width}x{image.height} pixels (width x height); "
            f"signature {signature} takes {width}x{height}"
        )
    return image.convert(MODES[channels])
