"""What is evaluated: models, each with the settings to sample from it, and their samples as files."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_blurdiff.devices import Devices
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.evaluation.reference import MIN_IMAGES, Reference
from tf_blurdiff.generation import generate
from tf_blurdiff.model import DiffusionModel, find_model, load_model

METRICS = ("frechet", "kernel", "precision_recall", "bits")
# Their files are all called so; their folders tell them apart.
_COMMON_STEMS = ("model", "best")


class SampleSettings(NamedTuple):
    """What is drawn for every model; see `generation.generate` and `load_model`."""

    num_images: int
    seed: int = 0
    grid: str | None = None
    eta: float = 0.0
    delta: float | None = None
    guidance_scale: float = 1.0
    batch_size: int | None = None
    precision: str | None = None  # of the networks' arithmetic; None for that of each one's training

    @property
    def seeds(self) -> range:
        """Those of the samples."""
        return range(self.seed, self.seed + self.num_images)


class Candidate(NamedTuple):
    """A model with the settings to sample from it."""

    name: str
    path: Path
    sha256: str  # of the file when it was loaded, its first 16 digits
    model: DiffusionModel
    sampling: dict[str, Any]  # arguments of DiffusionModel.sampling_settings

    def folder(self, out_dir: str | Path) -> Path:
        """Where its samples are."""
        return Path(out_dir) / "samples" / self.name


def open_candidates(
    paths: Iterable[str | Path],
    reference: Reference,
    samples: SampleSettings,
    samplers: Iterable[str | None] = (None,),
    nums_steps: Iterable[int | None] = (None,),
    metrics: Collection[str] = METRICS,
) -> list[Candidate]:
    """Loads the models, and checks all that can be wrong before hours of sampling.

    Args:
        paths: of .keras files, or names of shipped models.
        reference: a `Reference`.
        samples: a `SampleSettings`.
        samplers, nums_steps: each model is sampled with each sampler in each number of steps; None is its own.
        metrics: of METRICS.

    Returns:
        A list of `Candidate`.

    Raises:
        UserError: for models that cannot be read or compared with these images, and for arguments that are not allowed.
    """
    check_count("num_images", samples.num_images, MIN_IMAGES)
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise UserError(f"metrics must be some of {', '.join(METRICS)}. Received: {','.join(unknown) or 'none'}")
    candidates: dict[str, Candidate] = {}
    for path in map(find_model, paths):
        model, sha256 = load_model(path, samples.precision), _sha256(path)
        _check_model(model, path, reference.images)
        model.check_prior()
        labels = candidate_labels(model, reference, samples.num_images)
        model.conditions(labels, samples.guidance_scale, samples.num_images)
        for sampler in samplers:
            for num_steps in nums_steps:
                sampling: dict[str, Any] = {"sampler": sampler, "num_steps": num_steps, "grid": samples.grid}
                sampling |= {"eta": samples.eta, "delta": samples.delta}
                settings = model.sampling_settings(**sampling)
                name = _unused(f"{_stem(path)}-{settings.sampler}-{settings.num_steps}", candidates)
                candidates[name] = Candidate(name, path, sha256, model, sampling)
    return list(candidates.values())


def _sha256(path):
    # A folder is what Keras writes for the Hub.
    file = path / "model.weights.h5" if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def draw_samples(
    candidates: Iterable[Candidate],
    reference: Reference,
    samples: SampleSettings,
    out_dir: str | Path,
    devices: Devices,
    verbose: bool = False,
) -> None:
    """Writes every candidate's images to `out_dir/samples/<name>/`; those that are there are not made again."""
    for candidate in candidates:
        if verbose:
            print(f"{candidate.name}: {samples.num_images} images", flush=True)
        generate(
            candidate.model,
            samples.seeds,
            candidate.folder(out_dir),
            devices,
            candidate_labels(candidate.model, reference, samples.num_images),
            samples.guidance_scale,
            batch_size=samples.batch_size,
            verbose=verbose,
            **candidate.sampling,
        )


def candidate_labels(model: DiffusionModel, reference: Reference, count: int) -> np.ndarray | None:
    """Labels as often as among the real images, or in turn if those have none; None for a model without labels."""
    if model.num_classes is None:
        return None
    labels = reference.labels(count)
    return np.arange(count) % model.num_classes if labels is None else labels


def _check_model(model, path, images):
    if model.image_shape != images.image_shape:
        raise UserError(
            f"{path} makes images of shape {model.image_shape}; the config's data have {images.image_shape}: expected "
            "a model and data of one shape"
        )
    if model.num_classes is not None and images.num_classes not in (None, model.num_classes):
        raise UserError(f"{path} has {model.num_classes} labels; the config's data have {images.num_classes}")
    names, expected = model.class_names, images.class_names
    if names is not None and expected is not None and names != expected:
        first = next(number for number, pair in enumerate(zip(names, expected)) if pair[0] != pair[1])
        raise UserError(
            f"{path} has label {first} for {names[first]!r}; the config's data for {expected[first]!r}: expected "
            "data.labels in the model's order"
        )


def _stem(path):
    return path.resolve().parent.name if path.stem in _COMMON_STEMS else path.stem


def _unused(name, names):
    number = 2
    unused = name
    while unused in names:
        unused, number = f"{name}-{number}", number + 1
    return unused
