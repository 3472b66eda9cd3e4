"""Scores of models: samples into files, their distances to the real images, and bits per dimension."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tf_blurdiff.data.image_files import read_image
from tf_blurdiff.data.sources import to_unit_range
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.metrics import (
    gaussian_frechet_distance,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
)
from tf_blurdiff.evaluation.reference import KEPT, MIN_IMAGES, gather_features, real_features
from tf_blurdiff.generation import SETTINGS_FILE, generate
from tf_blurdiff.model.diffusion_model import DiffusionModel, load_model
from tf_blurdiff.model.loading import find_model

METRICS = ("frechet", "kernel", "precision_recall", "bits")
# Of a sheet of samples with their neighbours: so many samples, each before so many real images.
NEIGHBOURS_OF, NEIGHBOURS = 8, 7
_READ_AT_ONCE = 64
# Their files are all called so; their folders tell them apart.
_COMMON_STEMS = ("model", "best")


class Samples(NamedTuple):
    """What is drawn for every model; see `generation.generate`."""

    num_images: int
    seed: int = 0
    grid: str | None = None
    eta: float = 0.0
    delta: float | None = None
    guidance_scale: float = 1.0
    batch_size: int | None = None


class Bits(NamedTuple):
    """How the bound is estimated; see `likelihood.bits_per_dimension`."""

    num_images: int = 512
    num_steps: int = 1000
    num_times: int = 100


BITS = Bits()


class Candidate(NamedTuple):
    """A model with a way to sample from it."""

    name: str
    path: Path
    model: DiffusionModel
    sampler: str | None
    num_steps: int | None


class Scored(NamedTuple):
    """A `Candidate` with its figures and the images that pictures are made of."""

    candidate: Candidate
    figures: dict
    images: np.ndarray  # the first samples, uint8 [n, H, W, C]
    neighbours: dict  # of a space's name: numbers of real images, [NEIGHBOURS_OF, NEIGHBOURS]


def open_candidates(paths, reference, samples, samplers=(None,), nums_steps=(None,), metrics=METRICS):
    """Loads the models, and checks all that can be wrong before hours of sampling.

    Args:
        paths: of .keras files, or names of shipped models.
        reference: a `Reference`.
        samples: a `Samples`.
        samplers, nums_steps: each model is sampled with each sampler in each number of steps; None is its own.
        metrics: of METRICS.

    Returns:
        A list of `Candidate`.

    Raises:
        UserError: for models that cannot be read or compared with these images, and for arguments that are not allowed.
    """
    if samples.num_images < MIN_IMAGES:
        raise UserError(f"num_images must be {MIN_IMAGES} or more. Received: {samples.num_images}")
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise UserError(f"metrics must be some of {', '.join(METRICS)}. Received: {','.join(unknown) or 'none'}")
    candidates, names = [], set()
    for path in map(find_model, paths):
        model = load_model(path)
        _check_model(model, path, reference.images)
        model.check_prior()
        for sampler in samplers:
            for num_steps in nums_steps:
                settings, _ = model.sampling(sampler, num_steps, samples.grid, samples.eta, samples.delta)
                labels = _labels(model, reference, samples.num_images)
                model.conditions(labels, samples.guidance_scale, samples.num_images)
                name = _unused(f"{_name(path)}-{settings.sampler}-{settings.num_steps}", names)
                candidates.append(Candidate(name, path, model, sampler, num_steps))
    return candidates


def draw_samples(candidates, reference, samples, out_dir, devices, verbose=False):
    """Writes every candidate's images to `out_dir/samples/<name>/`; those that are there are not made again."""
    for candidate in candidates:
        if verbose:
            print(f"{candidate.name}: {samples.num_images} images", flush=True)
        generate(
            candidate.model,
            range(samples.seed, samples.seed + samples.num_images),
            _folder(out_dir, candidate),
            devices,
            _labels(candidate.model, reference, samples.num_images),
            samples.guidance_scale,
            batch_size=samples.batch_size,
            sampler=candidate.sampler,
            num_steps=candidate.num_steps,
            grid=samples.grid,
            eta=samples.eta,
            delta=samples.delta,
            verbose=verbose,
        )


def score(candidates, reference, networks, samples, out_dir, cache_dir, metrics=METRICS, bits=BITS, verbose=False):
    """Scores what `draw_samples` has written.

    Args:
        candidates: a list of `Candidate`.
        reference: a `Reference`.
        networks: a list of `features.FeatureNetwork`.
        samples: a `Samples`.
        out_dir: the folder of `draw_samples`.
        cache_dir: where the real images' features are kept.
        metrics: of METRICS.
        bits: a `Bits`.
        verbose: whether to show progress bars.

    Returns:
        A list of `Scored`, and what is known of the real images: a dict that can be written as JSON. Its `features` has
        for each network the floor: the same metrics between two parts of the real images.

    Raises:
        UserError: if the cache cannot be written.
    """
    digest = reference.digest()
    size_of_one = min(samples.num_images, reference.num_images // 2)
    real = [real_features(reference, digest, network, size_of_one, cache_dir) for network in networks]
    bits_of = _bits_of_models(candidates, reference, bits, verbose) if "bits" in metrics else {}
    scored = []
    for candidate in candidates:
        images, scores, neighbours = _score_one(
            candidate, reference, networks, real, samples, out_dir, metrics, verbose
        )
        described = _described(candidate, samples, out_dir)
        scored.append(
            Scored(candidate, {**described, "scores": scores, "bits": bits_of.get(candidate.path)}, images, neighbours)
        )
    floors = [{**_scores(each.one, each.rest, metrics), "nearest": _nearest(each.one, each.rest)} for each in real]
    return scored, {
        "num_images": reference.num_images,
        "of": reference.images.num_images,
        "image_shape": list(reference.images.image_shape),
        "digest": digest,
        "features": [_described_network(*each) for each in zip(networks, floors)],
    }


def _score_one(candidate, reference, networks, real, samples, out_dir, metrics, verbose):
    """The first images, the scores by network, and the numbers of the first images' nearest real ones."""
    folder, shape = _folder(out_dir, candidate), candidate.model.image_shape
    paths = [folder / f"seed_{samples.seed + number}.png" for number in range(samples.num_images)]
    first = _read(paths[:_READ_AT_ONCE], shape)
    scores, neighbours = {}, {"pixels": reference.nearest(first[:NEIGHBOURS_OF], NEIGHBOURS)}
    for network, others in zip(networks, real):
        own = gather_features(network, _batches(paths, shape, network.name, verbose), KEPT)
        everything = others.everything
        scores[network.name] = {**_scores(own, everything, metrics), "nearest": _nearest(own, others.rest)}
        if network.name not in neighbours:
            numbers = nearest_neighbours(everything.kept, own.kept[:NEIGHBOURS_OF], NEIGHBOURS)[1]
            neighbours[network.name] = others.numbers_kept()[numbers]
    return first, scores, neighbours


# Figures


def _scores(generated, real, metrics):
    """The metrics of one `FeatureSet` against another, and the sizes that they are of."""
    one, other = generated.statistics, real.statistics
    scores = {"sizes": [one.count, other.count], "kept": [len(generated.kept), len(real.kept)]}
    if "frechet" in metrics:
        scores["frechet"] = gaussian_frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    if "kernel" in metrics:
        value, standard_error = kernel_distance(generated.kept, real.kept)
        scores["kernel"] = {"value": value, "standard_error": standard_error}
    if "precision_recall" in metrics:
        scores |= precision_recall(real.kept, generated.kept)._asdict()
    return scores


def _nearest(own, real):
    """The median distance to the nearest of the real features; of copies it is far below that of other real images."""
    return float(np.median(nearest_neighbours(real.kept, own.kept, 1)[0]))


def _bits_of_models(candidates, reference, bits, verbose):
    """For each model's path its bound, or why there is none."""
    results = {}
    for candidate in candidates:
        if candidate.path in results:
            continue
        model, count = candidate.model, min(bits.num_images, reference.num_images)
        if not model.process.ends_in_noise:
            results[candidate.path] = {"none": "the process does not end in noise, so the bound is not known"}
            continue
        images = to_unit_range(reference.read(np.arange(count))).numpy()
        labels = _labels(model, reference, count)
        bound = model.bits_per_dimension(
            images, labels, num_steps=bits.num_steps, num_times=bits.num_times, verbose=verbose
        )
        results[candidate.path] = {
            "total": float(bound.total.mean()),
            "standard_error": float(bound.total.std(ddof=1) / np.sqrt(count)),
            **{name: float(getattr(bound, name).mean()) for name in ("prior", "diffusion", "reconstruction")},
            "bands": bound.bands.tolist(),
            "spectrum": bound.spectrum.mean(axis=0).tolist(),
            **bits._replace(num_images=count)._asdict(),
        }
    return results


# What a report says of them


def _described(candidate, samples, out_dir):
    model, folder = candidate.model, _folder(out_dir, candidate)
    digest = hashlib.sha256(candidate.path.read_bytes()).hexdigest()[:16]
    labels = None if model.num_classes is None else "of real images, in a random order"
    return {
        "name": candidate.name,
        "path": str(candidate.path),
        "sha256": digest,
        "weights": "averaged",
        "process": f"{type(model.process.noise).__name__}, {type(model.process.dissipation).__name__}",
        "prediction": model.prediction,
        "labels": labels,
        "num_images": samples.num_images,
        "first_seed": samples.seed,
        **json.loads((folder / SETTINGS_FILE).read_text()),
        "folder": str(folder),
    }


def _described_network(network, floor):
    return {
        "name": network.name,
        "is_fid": network.is_fid,
        "num_features": network.num_features,
        "preparation": network.preparation,
        "digest": network.digest,
        "remark": network.remark,
        "floor": floor,
    }


# Models and their images


def _check_model(model, path, images):
    if model.image_shape != images.image_shape:
        raise UserError(
            f"{path} makes images of shape {model.image_shape}; the config's data have {images.image_shape}: expected "
            "a model and data of one shape"
        )
    if model.num_classes is not None and images.num_classes not in (None, model.num_classes):
        raise UserError(f"{path} has {model.num_classes} labels; the config's data have {images.num_classes}")


def _labels(model, reference, count):
    """Labels as often as among the real images, or in turn if those have none; None for a model without labels."""
    if model.num_classes is None:
        return None
    labels = reference.labels(count)
    return np.arange(count) % model.num_classes if labels is None else labels


def _folder(out_dir, candidate):
    return Path(out_dir) / "samples" / candidate.name


def _name(path):
    return path.resolve().parent.name if path.stem in _COMMON_STEMS else path.stem


def _unused(name, names):
    number = 2
    unused = name
    while unused in names:
        unused, number = f"{name}-{number}", number + 1
    names.add(unused)
    return unused


def _read(paths, image_shape):
    return np.stack([read_image(path, image_shape) for path in paths])


def _batches(paths, image_shape, what, verbose):
    with tqdm(total=len(paths), desc=f"samples' {what}", unit="image", disable=not verbose) as progress:
        for first in range(0, len(paths), _READ_AT_ONCE):
            batch = _read(paths[first : first + _READ_AT_ONCE], image_shape)
            yield batch
            progress.update(len(batch))
