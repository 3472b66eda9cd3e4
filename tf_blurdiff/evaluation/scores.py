"""Scores of samples: their distances to the real images, and the models' bits per dimension."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tf_blurdiff.data import read_image, to_unit_range
from tf_blurdiff.evaluation.candidates import METRICS, Candidate, SampleSettings, candidate_labels
from tf_blurdiff.evaluation.features import FeatureNetwork
from tf_blurdiff.evaluation.metrics import (
    gaussian_frechet_distance,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
)
from tf_blurdiff.evaluation.provenance import describe_candidate, describe_network
from tf_blurdiff.evaluation.reference import (
    KEPT,
    FeatureSet,
    RealFeatures,
    Reference,
    gather_features,
    real_features,
)
from tf_blurdiff.model import DiffusionModel

# Of a sheet of samples with their neighbours: so many samples, each before so many real images.
NEIGHBOURS_OF, NEIGHBOURS = 8, 7
_READ_AT_ONCE = 64


class BoundSettings(NamedTuple):
    """How the bound is estimated; see `likelihood.bits_per_dimension`."""

    num_images: int = 512
    num_steps: int = 1000
    num_times: int = 100


BOUND = BoundSettings()


class Scored(NamedTuple):
    """A `Candidate` with its figures and the images that pictures are made of."""

    candidate: Candidate
    figures: dict[str, Any]
    images: np.ndarray  # the first samples, uint8 [n, H, W, C]
    neighbours: dict[str, np.ndarray]  # of a space's name: numbers of real images, [NEIGHBOURS_OF, NEIGHBOURS]


def score(
    candidates: Sequence[Candidate],
    reference: Reference,
    networks: Sequence[FeatureNetwork],
    samples: SampleSettings,
    out_dir: str | Path,
    cache_dir: str | Path,
    metrics: Collection[str] = METRICS,
    bound: BoundSettings = BOUND,
    verbose: bool = False,
) -> tuple[list[Scored], dict[str, Any]]:
    """Scores what `draw_samples` has written.

    Args:
        candidates: a list of `Candidate`.
        reference: a `Reference`.
        networks: a list of `features.FeatureNetwork`.
        samples: a `SampleSettings`.
        out_dir: the folder of `draw_samples`.
        cache_dir: where the real images' features are kept.
        metrics: of METRICS.
        bound: a `BoundSettings`.
        verbose: whether to show progress bars.

    Returns:
        A list of `Scored`, and what is known of the real images: a dict that can be written as JSON. Its `features` has
        for each network the floor: the same metrics between two parts of the real images, and the distance of one to
        the nearest other.

    Raises:
        UserError: if the cache cannot be written.
    """
    digest = reference.digest()
    size_of_one = min(samples.num_images, reference.num_images // 2)
    real = {network.name: real_features(reference, digest, network, size_of_one, cache_dir) for network in networks}
    everything = {name: each.everything for name, each in real.items()}
    bits_of = _bits_of_models(candidates, reference, bound, verbose) if "bits" in metrics else {}
    scored = []
    for candidate in candidates:
        files = _SampleFiles(candidate, samples, out_dir, verbose)
        figures = describe_candidate(candidate, reference, samples, out_dir)
        sets = {network.name: gather_features(network, files.batches(network.name), KEPT) for network in networks}
        figures["scores"] = {
            name: {**_scores(own, everything[name], metrics), "nearest": _to_nearest(everything[name], own.kept)}
            for name, own in sets.items()
        }
        figures["bits"] = bits_of.get(candidate.path)
        images = files.read(0)
        scored.append(Scored(candidate, figures, images, _neighbours(images, sets, real, reference)))
    floors = {
        name: {**_scores(each.one, each.rest, metrics), "nearest": _to_nearest(everything[name])}
        for name, each in real.items()
    }
    return scored, {
        "num_images": reference.num_images,
        "of": reference.images.num_images,
        "image_shape": list(reference.images.image_shape),
        "digest": digest,
        "features": [
            {
                **describe_network(network),
                "kept": len(everything[network.name].kept),
                "floor": floors[network.name],
            }
            for network in networks
        ],
    }


class _SampleFiles:
    """A candidate's samples as files, in the order of their seeds."""

    def __init__(self, candidate: Candidate, samples: SampleSettings, out_dir: str | Path, verbose: bool) -> None:
        folder = candidate.folder(out_dir)
        self._paths = [folder / f"seed_{seed}.png" for seed in samples.seeds]
        self._image_shape, self._verbose = candidate.model.image_shape, verbose

    def read(self, first: int) -> np.ndarray:
        """A batch of them from number `first` on, uint8 `[B, H, W, C]`."""
        paths = self._paths[first : first + _READ_AT_ONCE]
        return np.stack([read_image(path, self._image_shape) for path in paths])

    def batches(self, what: str) -> Iterator[np.ndarray]:
        """All of them, with a progress bar."""
        total = len(self._paths)
        with tqdm(total=total, desc=f"samples' {what}", unit="image", disable=not self._verbose) as progress:
            for first in range(0, total, _READ_AT_ONCE):
                batch = self.read(first)
                yield batch
                progress.update(len(batch))


def _scores(generated: FeatureSet, real: FeatureSet, metrics: Collection[str]) -> dict[str, Any]:
    """The metrics of one set against another, and the sizes that they are of."""
    one, other = generated.statistics, real.statistics
    scores: dict[str, Any] = {"sizes": [one.count, other.count], "kept": [len(generated.kept), len(real.kept)]}
    if "frechet" in metrics:
        scores["frechet"] = gaussian_frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    if "kernel" in metrics:
        value, standard_error = kernel_distance(generated.kept, real.kept)
        scores["kernel"] = {"value": value, "standard_error": standard_error}
    if "precision_recall" in metrics:
        scores |= precision_recall(real.kept, generated.kept)._asdict()
    return scores


def _to_nearest(real: FeatureSet, others: np.ndarray | None = None) -> float:
    """The median distance of others' features to the nearest real image, or of a real image to the nearest other one.

    Of copies of the real images that are kept the first is far below the second.
    """
    return float(np.median(nearest_neighbours(real.kept, others, 1)[0]))


def _neighbours(
    images: np.ndarray, sets: dict[str, FeatureSet], real: dict[str, RealFeatures], reference: Reference
) -> dict[str, np.ndarray]:
    """Numbers of the first samples' nearest real images, by pixels and by each feature network."""
    neighbours = {"pixels": reference.nearest(images[:NEIGHBOURS_OF], NEIGHBOURS)}
    for name, own in sets.items():
        if name not in neighbours:
            others = real[name]
            places = nearest_neighbours(others.everything.kept, own.kept[:NEIGHBOURS_OF], NEIGHBOURS)[1]
            neighbours[name] = others.numbers_kept()[places]
    return neighbours


def _bits_of_models(
    candidates: Iterable[Candidate], reference: Reference, bound: BoundSettings, verbose: bool
) -> dict[Path, dict[str, Any]]:
    """For each model's path its bound, or why there is none."""
    models = {candidate.path: candidate.model for candidate in candidates}
    return {path: _bits(model, reference, bound, verbose) for path, model in models.items()}


def _bits(model: DiffusionModel, reference: Reference, settings: BoundSettings, verbose: bool) -> dict[str, Any]:
    if not model.process.ends_in_noise:
        return {"none": "the process does not end in noise, so the bound is not known"}
    if model.distilled_guidance is not None:
        return {"none": "a distilled model bounds no likelihood"}
    if model.num_classes is not None and reference.images.labels is None:
        return {"none": "the model has labels, and the real images have none"}
    count = min(settings.num_images, reference.num_images)
    images = to_unit_range(reference.read(np.arange(count))).numpy()
    labels = candidate_labels(model, reference, count)
    bound = model.bits_per_dimension(
        images, labels, num_steps=settings.num_steps, num_times=settings.num_times, verbose=verbose
    )
    if not np.isfinite(bound.total).all():
        return {"none": "it is not finite"}
    return {
        "total": float(bound.total.mean()),
        "standard_error": float(bound.total.std(ddof=1) / np.sqrt(count)),
        **{name: float(getattr(bound, name).mean()) for name in ("prior", "diffusion", "reconstruction")},
        "bands": bound.bands.tolist(),
        "spectrum": bound.spectrum.mean(axis=0).tolist(),
        **settings._replace(num_images=count)._asdict(),
    }
