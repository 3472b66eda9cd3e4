"""Fetches images from a served model (TF Serving, or local_server.py) and saves them as a grid or one by one.

    python export/client.py --url http://localhost:8501 --model digits --seeds 0:64 --out grid.png
    python export/client.py --grpc localhost:8500 --model digits --seeds 7,9,100:110 --out_dir images
    python export/client.py --model photos --label shoes --label boots --seeds 0:8
    python export/client.py --model digits --signature png_deblur --image blurred.png --blur_sigma 1.0 --seeds 0:4

An image depends on its own seed (and label) alone, so any batch size will do. A request that the server refuses for now
(no connection, UNAVAILABLE, 503, 429) is sent again for up to --wait seconds; one that can never succeed is not.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from endpoint import connection, restoration_inputs
from endpoint.calls import LABELS, Image, Inputs, patiently
from endpoint.command_line import INT64, ClientError, run
from endpoint.image_grid import WRITTEN, check_grid, decode, save_grid

_SEEDS = flags.DEFINE_string("seeds", "0:16", "Seeds: numbers and ranges, 0:4 is 0,1,2,3. Example: 7,9,100:110.")
_LABELS = flags.DEFINE_string("labels", None, "For a conditional model: one label for all, or as many as seeds.")
_LABEL = flags.DEFINE_multi_string("label", [], "A class by its name, or number; again for more, taken in turn.")
_OUT = flags.DEFINE_string(
    "out", None, "A grid of all images, .png, .jpg or .webp (grid.png if --out_dir is not given)."
)
_OUT_DIR = flags.DEFINE_string("out_dir", None, "Folder for single files, named by seed.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images a request.", 1)
_WAIT = flags.DEFINE_float("wait", 0.0, "Seconds to keep trying while the server is not there or too busy.", 0.0, 1e6)

_MAX_IMAGES = 100_000  # a slip like 0:1000000000 would fill the memory before the first request


def parse_numbers(text: str, flag: str) -> list[int]:
    """Numbers and half-open ranges, separated by commas: "7,100:103" -> [7, 100, 101, 102]."""
    numbers = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            span = range(int(first), int(last) if colon else int(first) + 1)
        except ValueError:
            raise ClientError(f"{flag}: {part!r} is neither a number nor a range like 0:64") from None
        if not span or span[0] not in INT64 or span[-1] not in INT64:
            raise ClientError(f"{flag}: {part!r} is empty, or outside of 64-bit integers")
        if span[-1] - span[0] >= _MAX_IMAGES - len(numbers):
            raise ClientError(f"{flag}: more than {_MAX_IMAGES} numbers")
        numbers.extend(span)
    return numbers


def parse_labels(text: str | None, num_seeds: int) -> list[int] | None:
    """One label a seed, or None for a model without labels."""
    if text is None:
        return None
    labels = parse_numbers(text, "--labels")
    if len(labels) not in (1, num_seeds):
        raise ClientError(f"--labels: give one label, or one for each of {num_seeds} seeds. Received: {len(labels)}")
    return labels * (num_seeds // len(labels))


def named_labels(words: list[str], num_seeds: int, server: Any) -> list[int]:
    """One label a seed: those of classes by names or numbers, in turn."""
    if LABELS in server.signatures():
        labels = server.labels(words)
    elif all(word.isdecimal() and int(word) in INT64 for word in words):
        labels = [int(word) for word in words]
    else:
        raise ClientError(f"--label: the model's labels have no names; expected numbers. Received: {', '.join(words)}")
    return [labels[row % len(labels)] for row in range(num_seeds)]


def fetch(call: Callable[[Inputs], list[Image]], inputs: Inputs, batch_size: int, wait: float) -> Iterator[Image]:
    """Yields the image of each row of the inputs, in order, asking for batch_size of them at a time."""
    for start in range(0, len(inputs["seed"]), batch_size):
        batch = {name: values[start : start + batch_size] for name, values in inputs.items()}
        images = patiently(call, batch, wait)
        if len(images) != len(batch["seed"]):
            raise ClientError(f"asked for {len(batch['seed'])} images, received {len(images)}")
        yield from images


def file_names(inputs: Inputs, pictures: list[str]) -> list[str]:
    """The names of single files, one an image, of seed, label and picture; rows that differ elsewhere are numbered."""
    names = [f"seed_{seed}" for seed in inputs["seed"]]
    if "label" in inputs:
        names = [f"{name}_label_{label}" for name, label in zip(names, inputs["label"])]
    if len(set(pictures)) > 1:
        names = [f"{name}_{Path(picture).stem}" for name, picture in zip(names, pictures)]
    rows = zip(names, *[[np.array(value).tobytes() for value in column] for column in inputs.values()])
    if len(set(names)) < len(set(rows)):
        names = [f"{row:04d}_{name}" for row, name in enumerate(names)]
    return [f"{name}.png" for name in names]


def prepare(out: Path | None, out_dir: Path | None) -> None:
    """Finds out whether the images can be saved before any is asked for."""
    if out_dir:
        _make_writable(out_dir, "--out_dir")
    if out:
        if out.is_dir():
            raise ClientError(f"--out: {out} is a folder (--out_dir saves single files)")
        if out.suffix.lower() not in WRITTEN:
            raise ClientError(f"--out must end in {', '.join(WRITTEN)}. Received: {out}")
        _make_writable(out.parent, "--out")
        if out.exists() and not os.access(out, os.W_OK):
            raise ClientError(f"--out: no permission to write {out}")


def _make_writable(folder: Path, flag: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ClientError(f"{flag}: no permission to write in {folder}")


def _path(text: str | None) -> Path | None:
    """Shells leave a ~ behind "=" as it is."""
    return Path(os.path.expanduser(text)) if text else None


def main() -> None:
    """What the flags ask for."""
    seeds = parse_numbers(_SEEDS.value, "--seeds")
    labels = parse_labels(_LABELS.value, len(seeds))
    if labels and _LABEL.value:
        raise ClientError("--label and --labels: give one of them")
    out, out_dir = _path(_OUT.value or (None if _OUT_DIR.value else "grid.png")), _path(_OUT_DIR.value)
    prepare(out, out_dir)
    server, given = connection.connect(), restoration_inputs.given_inputs()
    if _LABEL.value:
        labels = patiently(lambda _: named_labels(_LABEL.value, len(seeds), server), {}, _WAIT.value)
    inputs, signature = connection.inputs_for(seeds, labels), connection.signature()
    are_needed = restoration_inputs.are_needed(signature, given)
    signatures = patiently(lambda _: server.signatures(), {}, _WAIT.value) if _LABEL.value or are_needed else {}
    if _LABEL.value and "guidance_scale" in signatures.get(signature, {}):
        inputs.setdefault("guidance_scale", np.ones(len(seeds), np.float32))
    if are_needed:
        inputs = restoration_inputs.complete(inputs, given, signature, signatures)
    received, images = fetch(server, inputs, _BATCH_SIZE.value, _WAIT.value), []
    bar = tqdm(received, total=len(seeds), unit="image", disable=None)
    names = file_names(inputs, given.get("image", []))
    for content, name in zip(bar, names):
        image = decode(content)
        if out and not images:
            check_grid(image, len(seeds), out)
        if out_dir:
            image.save(out_dir / name, "PNG")
        if out:
            images.append(image)
    if out:
        save_grid(images, out)
        print(f"{len(images)} images in {out}")
    if out_dir:
        print(f"{len(set(names))} images in {out_dir}{os.sep}")


if __name__ == "__main__":
    run(main, flag_modules=[connection, restoration_inputs])
