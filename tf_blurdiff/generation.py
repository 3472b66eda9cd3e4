"""Many images, one for each seed, on all devices and workers, into files; what is there already is not made again.

`sample --out_dir`, `sample --out X.npz` and `evaluate` come here; a grid is drawn by `DiffusionModel.sample`.
Workers talk to each other through the files alone: each makes its share of the seeds, and one that was stopped can be
started again while the others go on.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from tf_blurdiff.compilation import is_wanted
from tf_blurdiff.data import read_image, to_uint8
from tf_blurdiff.devices import Devices
from tf_blurdiff.diffusion.samplers import SamplingSettings
from tf_blurdiff.diffusion.stateless_random import global_rows
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import expanded, write_atomically, writing
from tf_blurdiff.model import Conditions, DiffusionModel, checked_seeds, images_at_once

# Says beside the images how they were made.
SETTINGS_FILE = "settings.json"
_SECONDS_BETWEEN_LOOKS = 1.0


def generate(
    model: DiffusionModel,
    seeds: Sequence[int],
    out: str | os.PathLike,
    devices: Devices,
    labels: ArrayLike | None = None,
    guidance_scale: float = 1.0,
    *,
    noise_seed: int | None = None,
    batch_size: int | None = None,
    sampler: str | None = None,
    num_steps: int | None = None,
    grid: str | None = None,
    eta: float = 0.0,
    delta: float | None = None,
    verbose: bool = False,
) -> None:
    """Writes one image for each seed, those of `DiffusionModel.sample`, whatever number of devices makes them.

    Stopped at any moment and called again, it makes what is missing. Files appear whole or not at all, and no more than
    a batch of images is in memory at once.

    Args:
        model: a `DiffusionModel`, made or loaded inside `devices.strategy.scope()`.
        seeds: different integers, `[N]`. More may be added to a folder later.
        out: a folder for files `seed_<seed>.png`, or a path that ends in .npz. That file has the arrays image, uint8
            `[N, H, W, C]`, seed, int64 `[N]`, and for a model with labels label, int64 `[N]`, num_classes for none;
            until all images are there, they are in the folder `<out>.parts`. All workers must see the same files.
        devices: a `Devices`, of `open_devices(in_step=False)`.
        labels: integers `[N]`, as in `sample`.
        guidance_scale: one number, as in `sample`.
        noise_seed: one seed for the steps' noise of all images; None for each image's own.
        batch_size: images in the memory of one device at once; None chooses.
        sampler, num_steps, grid, eta, delta: as in `sample`.
        verbose: whether to show a progress bar.

    Returns:
        After this worker's images are made; the first worker waits for all.

    Raises:
        UserError: for an argument that is not allowed, for a place that cannot be written, and for one that holds
            images of another model, other settings or other labels.

    Example:
        >>> import tempfile
        >>> import tf_blurdiff as bd
        >>> from tf_blurdiff.devices import open_devices
        >>> devices, folder = open_devices("one_device", in_step=False), tempfile.mkdtemp()
        >>> with devices.strategy.scope():
        ...     network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1)
        ...     model = bd.DiffusionModel(network, bd.process.blurring(sigma_blur_max=4.0))
        >>> generate(model, range(3), folder + "/three.npz", devices, num_steps=2)
        >>> np.load(folder + "/three.npz")["image"].shape
        (3, 8, 8, 1)
    """
    if model.distribute_strategy is not devices.strategy:
        raise UserError("the model must be made or loaded inside devices.strategy.scope(). Received: one of elsewhere")
    numbers, out = checked_seeds(seeds).tolist(), expanded(out)
    if len(set(numbers)) < len(numbers):
        raise UserError(f"seeds must be different from each other. Received: {len(numbers)}, some of them equal")
    settings = model.sampling_settings(sampler=sampler, num_steps=num_steps, grid=grid, eta=eta, delta=delta)
    conditions = model.conditions(labels, guidance_scale, len(numbers))
    if np.ndim(guidance_scale):
        raise UserError(f"guidance_scale must be one number for all images. Received: {guidance_scale!r}")
    if noise_seed is not None:
        checked_seeds([noise_seed], "noise_seed")
    batch_size = images_at_once(model, batch_size)
    model.check_prior()
    batches = math.ceil(len(numbers) / (batch_size * devices.strategy.num_replicas_in_sync * devices.num_workers))
    compile = is_wanted(model.compiling, calls=batches * settings.num_steps)
    sample_batch = _BatchSampler(
        model, devices.strategy, batch_size, conditions.guidance_scale[0], noise_seed, settings, compile
    )
    made_by = {"model": model.fingerprint()[:16], **settings._asdict()}
    made_by |= {"guidance_scale": float(guidance_scale), "noise_seed": None if noise_seed is None else int(noise_seed)}
    label_of = dict.fromkeys(numbers) if model.num_classes is None else dict(zip(numbers, conditions.labels.tolist()))
    wanted = _Wanted(label_of, made_by, model.image_shape)
    with writing(out), _enough_memory(batch_size):
        if out.suffix.lower() == ".npz":
            _generate_file(out, wanted, devices, sample_batch, verbose)
        else:
            _generate_folder(out, wanted, devices, sample_batch, verbose)


def _generate_file(out, wanted, devices, sample_batch, verbose):
    parts = out.with_name(f"{out.name}.parts")
    if out.exists():
        wanted.check_npz(out)
    else:
        _generate_folder(parts, wanted, devices, sample_batch, verbose)
        if devices.is_chief:
            write_atomically(out, lambda path: wanted.write_npz(path, parts))
    if devices.is_chief:
        shutil.rmtree(parts, ignore_errors=True)


def _generate_folder(folder, wanted, devices, sample_batch, verbose):
    wanted.begin(folder, devices.worker)
    share = list(wanted.label_of)[devices.worker :: devices.num_workers]
    present = _present(folder)
    wanted.check_labels(folder, [seed for seed in share if _name(seed) in present])
    missing = [seed for seed in share if _name(seed) not in present]
    initial = len(share) - len(missing)
    with tqdm(total=len(share), initial=initial, desc="sampling", unit="image", disable=not verbose) as progress:
        for seeds in sample_batch.batches(missing):
            labels = [wanted.label_of[seed] for seed in seeds]
            for seed, label, image in zip(seeds, labels, sample_batch(seeds, labels)):
                _write_png(folder / _name(seed), image, label)
            progress.update(len(seeds))
    if devices.is_chief and devices.num_workers > 1:
        _wait_for_others(folder, wanted.label_of, verbose)


class _BatchSampler:
    """Samples batches of seeds on all replicas, with one traced function, which each calls for its rows."""

    def __init__(
        self,
        model: DiffusionModel,
        strategy: tf.distribute.Strategy,
        batch_size: int,
        guidance_scale: np.float32,
        noise_seed: int | None,
        settings: SamplingSettings,
        compile: bool,
    ) -> None:
        self._strategy, self._noise_seed = strategy, noise_seed
        self._rows_per_replica = batch_size
        times = settings.times(model.process)

        def on_replica(*batch):
            rows, _ = global_rows(tf.shape(batch[0])[0] // strategy.num_replicas_in_sync)
            seeds, noise_seeds, labels = (tf.gather(part, rows) for part in batch)
            scales = tf.fill(tf.shape(seeds), guidance_scale)
            conditions = Conditions(labels, scales)
            drawn = model.reverse_process.draw(seeds, noise_seeds, conditions, times, settings, compile=compile)
            return to_uint8(drawn)

        inputs = [tf.TensorSpec([None], tf.int64)] * 3
        self._sample = tf.function(lambda *batch: strategy.run(on_replica, args=batch), inputs, autograph=False)

    def batches(self, seeds: list[int]) -> list[list[int]]:
        """Lists of seeds, as many as the replicas draw at once."""
        size = self._rows_per_replica * self._strategy.num_replicas_in_sync
        return [seeds[first : first + size] for first in range(0, len(seeds), size)]

    def __call__(self, seeds: list[int], labels: list[int | None]) -> np.ndarray:
        """Images, uint8 `[B, H, W, C]`, for the seeds and labels (or None each) of a batch."""
        noise_seeds = [seed if self._noise_seed is None else self._noise_seed for seed in seeds]
        filled = [label or 0 for label in labels]
        # Every replica gets as many rows: at the end, the last seed again.
        padding = (0, -len(seeds) % self._strategy.num_replicas_in_sync)
        batch = [tf.constant(np.pad(part, padding, mode="edge"), tf.int64) for part in (seeds, noise_seeds, filled)]
        # Each worker fetches its own replicas' images, so that none has to wait for another.
        images = self._strategy.experimental_local_results(self._sample(*batch))
        return np.concatenate([part.numpy() for part in images])[: len(seeds)]


class _Wanted(NamedTuple):
    """Which images there are to be: a place that holds others is refused."""

    label_of: dict[int, int | None]  # of each seed; None for a model without labels
    made_by: dict[str, Any]  # all that an image depends on but its seed and label
    image_shape: tuple[int, int, int]

    def begin(self, folder: pathlib.Path, worker: int) -> None:
        """Makes the folder, or checks that what is in it was made in the same way."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS_FILE
        if not path.exists():
            if _present(folder):
                raise UserError(
                    f"{folder} holds images but no {SETTINGS_FILE}; expected an empty folder, or one to resume"
                )
            text = json.dumps(self.made_by, indent=1) + "\n"
            # Of workers that begin together, the last one's stays.
            write_atomically(path, lambda path: path.write_text(text), writer=f"-{worker}")
        self._check_settings(folder, path.read_text())

    def check_labels(self, folder: pathlib.Path, seeds: list[int]) -> None:
        """Checks those that the image files of these seeds name."""
        for seed in seeds:
            label = self.label_of[seed]
            if label is not None:
                with Image.open(folder / _name(seed)) as image:
                    there = image.info.get("label")
                _refuse(folder, [f"label of seed {seed} ({there} there, {label} here)"] if there != str(label) else [])

    def check_npz(self, path: pathlib.Path) -> None:
        """Checks that a file holds these images."""
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.comment.decode()
            with np.load(path) as file:
                there = {name: file[name].tolist() for name in ("seed", "label") if name in file}
        except (zipfile.BadZipFile, ValueError, KeyError) as error:
            raise UserError(f"{path} is there already and is not a whole .npz: {error}") from None
        self._check_settings(path, text)
        here = {name: values.tolist() for name, values in self._columns().items()}
        _refuse(path, [f"{name}s (another list)" for name in here if there.get(name) != here[name]])

    def write_npz(self, path: pathlib.Path, folder: pathlib.Path) -> None:
        """Packs a folder's images; as numpy.savez would, but an image at a time."""
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = json.dumps(self.made_by).encode()  # Where it is in nobody's way.
            with archive.open("image.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.label_of), *self.image_shape)}
                np.lib.format.write_array_header_1_0(member, header)
                for seed in self.label_of:
                    member.write(read_image(folder / _name(seed), self.image_shape).tobytes())
            for name, values in self._columns().items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values)

    def _check_settings(self, place, text):
        try:
            there = dict(json.loads(text))
        except (ValueError, TypeError):
            raise UserError(f"{place} does not say how its images were made; expected another place") from None
        keys = [key for key in {**self.made_by, **there} if there.get(key) != self.made_by.get(key)]
        _refuse(place, [f"{key} ({there.get(key)!r} there, {self.made_by.get(key)!r} here)" for key in keys])

    def _columns(self):
        columns = {"seed": np.array(list(self.label_of), np.int64)}
        if None not in self.label_of.values():
            columns["label"] = np.array(list(self.label_of.values()), np.int64)
        return columns


def _refuse(place, differences):
    if differences:
        raise UserError(
            f"{place} holds images that were made otherwise: {', '.join(differences)}; expected the same, or another "
            "place"
        )


def _name(seed):
    return f"seed_{seed}.png"


def _present(folder):
    # Names with a dot in front are what an interruption left; an empty file can be what a power cut did.
    return {entry.name for entry in os.scandir(folder) if entry.name.startswith("seed_") and entry.stat().st_size}


def _write_png(path, image, label):
    text = PngImagePlugin.PngInfo()
    if label is not None:
        text.add_text("label", str(label))
    picture = Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)
    write_atomically(path, lambda path: picture.save(path, format="PNG", pnginfo=text), writer=f"-{os.getpid()}")


def _wait_for_others(folder, seeds, verbose):
    names, is_first_look = {_name(seed) for seed in seeds}, True
    while missing := len(names - _present(folder)):
        if verbose and is_first_look:
            print(f"waiting for {missing} images of the other workers", flush=True)
        is_first_look = False
        time.sleep(_SECONDS_BETWEEN_LOOKS)


@contextlib.contextmanager
def _enough_memory(batch_size):
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise UserError(f"batch_size must be smaller: {batch_size} images do not fit in a device's memory") from None
