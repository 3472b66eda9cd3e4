"""The model as a SavedModel for TF Serving: seeds in, images out, the whole sampling loop inside the graph."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Collection

import tensorflow as tf

from tf_blurdiff.data import to_uint8
from tf_blurdiff.errors import UserError, check_count
from tf_blurdiff.files import expanded, writing
from tf_blurdiff.model import DiffusionModel, check_restores
from tf_blurdiff.serving import assets as export_assets
from tf_blurdiff.serving.signatures import LABELS, labels_signature, make_signatures, restoration_tasks, sampling_task


def _make_served(model, settings, qualities, restoration):
    """A module with the variables that an export needs and `sample`, and name -> `signatures.Signature`."""
    served = tf.Module()
    # The weights in training are not served.
    models = [model, *(other for other, _ in qualities if other is not model)]
    served.kept_variables = [variable.value for each in models for variable in each.sampling_variables]
    # Not a signature, but there for who loads the export in Python: float32 images in [-1, 1].
    served.sample, signatures = make_signatures("serving_default", sampling_task(model, settings))
    for other, own in qualities:
        signatures |= make_signatures(f"steps_{own.num_steps}", sampling_task(other, own))[1]
    if restoration:
        known = [tf.constant(entry.example) for entry in signatures["serving_default"].inputs.values()]
        images = to_uint8(served.sample(*known)).numpy()
        for name, task in restoration_tasks(model, settings, images).items():
            signatures |= make_signatures(name, task)[1]
    if model.class_names is not None:
        signatures[LABELS] = labels_signature(model.class_names)
    return served, signatures


def export_savedmodel(
    model: DiffusionModel,
    base_dir: str | os.PathLike,
    version: int | None = None,
    num_steps: int | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    grid: str | None = None,
    delta: float | None = None,
    *,
    quality_steps: Collection[int | DiffusionModel] = (),
    restoration: bool = False,
    keep: int | None = None,
    notes: str | None = None,
) -> pathlib.Path:
    """Writes `<base_dir>/<version>/`, complete or not at all, for TF Serving.

    Signatures: `serving_default`, seed int64 `[B]` to image uint8 `[B, H, W, C]`; `png`, the same inputs to
    image_bytes, `[B]` PNG files. A model with labels also takes label int64 `[B]`, and one trained with label dropout
    guidance_scale float32 `[B]`; its label num_classes is "none". Each signature has a twin of PNG files, `png_` before
    its name. If the labels have names there is `labels` too, class_name string `[B]` to label. All check their inputs,
    and `assets.extra/manifest.json` says what they mean.

    Args:
        model: a `DiffusionModel`.
        base_dir: the folder that the server watches.
        version: integer of 1 or more; None takes the next.
        num_steps, sampler, eta, grid, delta: as in `DiffusionModel.sample`; None takes the model's own.
        quality_steps: numbers of steps, each for a signature `steps_N` beside the default; or models that were
            distilled from this one, each for a signature of its own number of steps.
        restoration: whether there are signatures that take images: `image_to_image`, of a strength for each row, and,
            with the methods of `DiffusionModel`, `deblur`, `super_resolution` (to twice the size) and `inpaint`.
        keep: how many of the newest versions to leave in the folder, this one among them; None leaves all.
        notes: Markdown for the end of the export's card, such as a licence; None leaves headings to be filled in.

    Returns:
        The path of the export.

    Raises:
        UserError: if the version is there already, if `keep` would remove newer ones, for a sampler or num_steps that
            is not allowed, for a model in quality_steps of other images or labels, or if the process starts from
            blurred data and `adapt` has not told the model what that looks like.

    Example:
        >>> import tempfile
        >>> import tf_blurdiff as bd
        >>> network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1)
        >>> model = bd.DiffusionModel(network, bd.process.blurring(sigma_blur_max=4.0))
        >>> bd.export_savedmodel(model, tempfile.mkdtemp(), num_steps=2).name
        '1'
    """
    settings = model.sampling_settings(sampler=sampler, num_steps=num_steps, grid=grid, eta=eta, delta=delta)
    model.check_prior()
    if restoration:
        check_restores(model)
    check_count("keep", 1 if keep is None else keep)
    qualities = _qualities(model, settings, quality_steps)
    base_dir = expanded(base_dir)
    if (base_dir / "saved_model.pb").exists():
        raise UserError(
            f"an export goes beside other versions: expected the folder above. Received: {base_dir}, a version"
        )
    with _alone_in(base_dir):
        final = base_dir / str(_free_version(base_dir, version))
        _check_keeps_newest(base_dir, int(final.name), keep)
        with writing(final, errors=(OSError, tf.errors.OpError)):
            _write(final, model, settings, qualities, restoration, notes)
            if keep is not None:
                _remove_all_but(keep, base_dir)
    return final


def _write(final, model, settings, qualities, restoration, notes):
    """The whole export, or nothing."""
    # TF Serving looks at folders with an integer for a name only; the rename shows it the whole export at once.
    temporary = final.with_name(f".writing-{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        served, signatures = _make_served(model, settings, qualities, restoration)
        traced = {name: signature.function for name, signature in signatures.items()}
        tf.saved_model.save(served, str(temporary), signatures=traced)
        students = {f"steps_{own.num_steps}": other for other, own in qualities if other is not model}
        assets = temporary / export_assets.FOLDER
        export_assets.write_assets(assets, model, settings, signatures, students, notes)
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _alone_in(base_dir):
    """Makes the folder, waits until no other export into it goes on, of any process, and holds it meanwhile."""
    with writing(base_dir):
        base_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(base_dir, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # Some file systems have no locks.
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _qualities(model, settings, quality_steps):
    """Pairs of a model and its settings, one for each `steps_N`."""
    pairs = []
    for each in dict.fromkeys(quality_steps):
        if isinstance(each, DiffusionModel):
            for name in ("image_shape", "num_classes", "class_names"):
                if getattr(each, name) != getattr(model, name):
                    raise UserError(
                        f"quality_steps must hold models with the {name} of the model itself, {getattr(model, name)}. "
                        f"Received: one with {getattr(each, name)}"
                    )
            each.check_prior()
            pairs.append((each, each.sampling_settings()))
        else:
            check_count("quality_steps", each)
            pairs.append((model, model.sampling_settings(**{**settings._asdict(), "num_steps": each})))
    counts = [own.num_steps for _, own in pairs]
    if len(set(counts)) < len(counts):
        raise UserError(f"quality_steps must be different numbers of steps. Received: {', '.join(map(str, counts))}")
    return pairs


def _versions(base_dir):
    return {int(path.name): path for path in base_dir.glob("*") if path.name.isdecimal()}


def _check_keeps_newest(base_dir, version, keep):
    newer = sorted(other for other in _versions(base_dir) if other > version)
    if keep is not None and newer:
        raise UserError(
            f"keep must be None for version {version}: {base_dir} has newer ones, {newer}. Received: {keep}"
        )


def _remove_all_but(keep, base_dir):
    versions = _versions(base_dir)
    for version in sorted(versions)[:-keep]:
        # Renamed first: half an export is never there under a version's name.
        doomed = base_dir / f".removing-{version}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(versions[version], doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _free_version(base_dir, version):
    taken = _versions(base_dir)
    if version is None:
        # A number that was taken out of service, by a dot before it, is not given to another model.
        hidden = [int(path.name[1:]) for path in base_dir.glob(".*") if path.name[1:].isdecimal()]
        return max([*taken, *hidden], default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 2**63:
        raise UserError(f"version must be an integer of 1 or more, below 2^63. Received: {version!r}")
    if version in taken:
        raise UserError(f"version {version} is in {base_dir} already; taken: {sorted(taken)}")
    return version
