"""How fast a folder of pictures is read, in what memory, and that damaged files in it are named and skipped.

    apt-get install plasma-workspace-wallpapers mate-backgrounds lomiri-wallpapers-16.04
    python benchmarks/data/image_folder.py --root patches

The first time, it cuts 20,000 overlapping 64x64 patches out of the photographs in those Debian packages, each
photograph's in a folder of its own, and damages ten of the files. Another set of photographs: --photographs.
Then, for each way to keep pictures, a process of its own reads three epochs of training batches, and nothing else:
images a second, and the process's peak memory after each epoch. The last column counts the damaged files that stderr
named. Three minutes on two cores, and as many more for the patches.
"""

import contextlib
import io
import itertools
import multiprocessing
import pathlib
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from absl import flags
from PIL import Image

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError

_WALLPAPERS = "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path"
_PHOTOGRAPHS = flags.DEFINE_list(
    "photographs",
    ["/usr/share/backgrounds", "/usr/share/backgrounds/mate/nature"]
    + [f"/usr/share/wallpapers/{name}/contents/images" for name in _WALLPAPERS.split()],
    "Folders of photographs to cut patches from; their sub-folders are not searched.",
)
_ROOT = flags.DEFINE_string("root", None, "The folder of patches; made if it is missing or empty.", required=True)
_NUM_PATCHES = flags.DEFINE_integer("num_patches", 20_000, "How many patches to cut.", lower_bound=100)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=1)
_CACHE_GB = flags.DEFINE_list("cache_gb", ["0", "2"], "Rows of the table: what data.cache_gb is.")

_PATCH, _STRIDE = 64, 32
# The shorter side that a photograph is shrunk to before it is cut: details at three scales.
_SHORT_SIDES = (256, 384, 512)
_NUM_DAMAGED, _EPOCHS = 10, 3


def main():
    """Builds the patches if need be, and prints the table."""
    try:
        sizes = [float(size) for size in _CACHE_GB.value]
    except ValueError:
        raise UserError(f"--cache_gb: got {','.join(_CACHE_GB.value)}, expected numbers of 0 or more") from None
    root = pathlib.Path(_ROOT.value).absolute()
    if not root.is_dir() or not any(root.iterdir()):
        _build_whole(root)
    damaged = (root / "damaged.txt").read_text().split() if (root / "damaged.txt").exists() else []
    print(f"{root}: {_PATCH}x{_PATCH}x3, batches of {_BATCH_SIZE.value}, the pipeline alone", flush=True)
    epochs = [f"epoch {epoch + 1}" for epoch in range(_EPOCHS)]
    rates, peaks = (" | ".join(f"{what}, {epoch}" for epoch in epochs) for what in ("images/s", "peak MB"))
    print(f"| cache_gb | {rates} | {peaks} | damaged, named |\n|{'---|' * (2 + 2 * _EPOCHS)}", flush=True)
    for cache_gb in sizes:
        # The peak is a process's: each row needs its own.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rates, peaks, messages = pool.submit(measure, str(root), cache_gb, _BATCH_SIZE.value).result()
        named = sum(any(name in message for message in messages) for name in damaged)
        figures = " | ".join(f"{figure:.0f}" for figure in [*rates, *peaks])
        print(f"| {cache_gb:g} | {figures} | {named} of {len(damaged)} in {len(messages)} lines |", flush=True)


def measure(root, cache_gb, batch_size):
    """Images a second and peak memory in MB, for each epoch, and the lines that went to stderr."""
    from tf_blurdiff.data.batches import training_batches
    from tf_blurdiff.data.sources import open_images

    messages = io.StringIO()
    rates, peaks = [], []
    with contextlib.redirect_stderr(messages):
        images = open_images("image_folder", _PATCH, 3, root=root, cache_gb=cache_gb)
        batches = iter(training_batches(images, batch_size, seed=0, flip=True))
        steps = images.num_images // batch_size
        for _ in range(_EPOCHS):
            started = time.monotonic()
            for _ in itertools.islice(batches, steps):
                pass
            rates.append(steps * batch_size / (time.monotonic() - started))
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    return rates, peaks, [line for line in messages.getvalue().splitlines() if "cannot read" in line]


def _build_whole(root):
    """Builds beside the folder: what is interrupted must not pass for all of it."""
    part = root.with_name(f"{root.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    _build(part)
    part.rename(root)


def _build(root):
    """Cuts the patches, damages some, and writes which into damaged.txt."""
    photographs = [path for folder in _PHOTOGRAPHS.value for path in sorted(pathlib.Path(folder).glob("*.jpg"))]
    # A package's smaller copies of a photograph are links.
    photographs = [path for path in photographs if not path.is_symlink()]
    patches = [place for path in photographs for place in _places(path)]
    if len(patches) < _NUM_PATCHES.value:
        raise UserError(
            f"--num_patches: got {_NUM_PATCHES.value}, expected at most {len(patches)}, which is what "
            f"{len(photographs)} photographs in --photographs give; are the Debian packages installed? (--help)"
        )
    chosen = [patches[i * len(patches) // _NUM_PATCHES.value] for i in range(_NUM_PATCHES.value)]
    print(f"cutting {len(chosen)} of {len(patches)} patches out of {len(photographs)} photographs", flush=True)
    names = []
    for (path, short_side), places in itertools.groupby(chosen, key=lambda place: place[:2]):
        photograph = _shrunk(path, short_side)
        # Numbered, for some packages name their files by size alone.
        folder = f"{photographs.index(path):02}_{path.stem}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _, _, top, left in places:
            names.append(f"{folder}/{short_side}_{top:04}_{left:04}.png")
            photograph.crop((left, top, left + _PATCH, top + _PATCH)).save(root / names[-1])
    damaged = [names[i * len(names) // _NUM_DAMAGED] for i in range(_NUM_DAMAGED)]
    for name, content in zip(damaged, itertools.cycle(_DAMAGES)):
        (root / name).write_bytes(content((root / name).read_bytes()))
    (root / "damaged.txt").write_text("\n".join(damaged))


_DAMAGES = [
    lambda whole: b"",
    lambda whole: whole[: len(whole) // 2],
    lambda whole: b"this is text\n",
    lambda whole: bytes(len(whole)),
    lambda whole: whole[:500] + bytes(len(whole) - 500),
]


def _places(path):
    """Every `(path, short_side, top, left)` of a photograph."""
    with Image.open(path) as photograph:
        size = np.array(photograph.size)
    for short_side in _SHORT_SIDES:
        width, height = (size * short_side) // min(size)
        for top in range(0, int(height) - _PATCH + 1, _STRIDE):
            for left in range(0, int(width) - _PATCH + 1, _STRIDE):
                yield path, short_side, top, left


def _shrunk(path, short_side):
    with Image.open(path) as photograph:
        width, height = (np.array(photograph.size) * short_side) // min(photograph.size)
        return photograph.convert("RGB").resize((int(width), int(height)), Image.Resampling.BOX)


if __name__ == "__main__":
    command_line.run(main)
