"""Restoring images with a model of whole ones: sharper, larger, or with a part filled in.

The model was not trained for any of this. It samples as it does from nothing, and every estimate of the image on the
way is made consistent with what is known of it (`diffusion.inverse_problems`).
"""

from typing import Any, Unpack

import numpy as np

from tf_blurdiff.diffusion.inverse_problems import Averaged, Blurred, Masked
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.samplers import SamplingSettings
from tf_blurdiff.diffusion.stateless_random import SeededNoise
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.arguments import (
    LARGEST,
    NEARLY_ONE_BLURRED,
    as_array,
    check_not_traced,
    checked_images,
    checked_seeds,
)
from tf_blurdiff.model.denoiser import InverseProblem
from tf_blurdiff.model.sampling import RestorationArguments, draw_images, start_of

# Steps that draw anew do not carry on what an early estimate got wrong.
_SETTINGS: dict[str, Any] = {"sampler": "ancestral", "num_steps": 50}


def deblur(
    model: Any, images: Any, blur_sigma: Any, seeds: Any, noise_std: Any, **sampling: Unpack[RestorationArguments]
) -> np.ndarray:
    """`DiffusionModel.deblur`."""
    check_not_traced()
    images = checked_images(images, model.image_shape, limit=NEARLY_ONE_BLURRED)
    blur_sigma = _checked_column("blur_sigma", blur_sigma, len(images), least=0.0)
    measured = Blurred.of(images, blur_sigma, _checked_noise_std(noise_std, len(images)))
    return _restored(model, measured, seeds, sampling)


def super_resolve(
    model: Any, images: Any, seeds: Any, noise_std: Any, **sampling: Unpack[RestorationArguments]
) -> np.ndarray:
    """`DiffusionModel.super_resolve`."""
    check_not_traced()
    images = as_array("images", images)
    images = checked_images(images, _smaller_shape(images.shape, model.image_shape))
    return _restored(model, Averaged.of(images, _checked_noise_std(noise_std, len(images))), seeds, sampling)


def inpaint(
    model: Any, images: Any, mask: Any, seeds: Any, noise_std: Any, **sampling: Unpack[RestorationArguments]
) -> np.ndarray:
    """`DiffusionModel.inpaint`."""
    check_not_traced()
    images, mask = as_array("images", images), as_array("mask", mask)
    shape = (*images.shape[:1], *model.image_shape[:2])
    if mask.shape not in (shape, (*shape, 1)) or mask.dtype.kind not in "biuf":
        raise UserError(
            f"mask must be numbers or booleans of shape {shape}. Received: {mask.dtype} of shape {mask.shape}"
        )
    mask = mask.reshape(*shape, 1).astype(np.float32)
    if images.shape[1:] == model.image_shape:
        images = np.where(mask == 0, images, np.zeros((), images.dtype))
    images = checked_images(images, model.image_shape)
    return _restored(model, Masked.of(images, mask, _checked_noise_std(noise_std, len(images))), seeds, sampling)


def check_restores(model: Any) -> None:
    """Raises a UserError if the model's process or prediction has no such sampling."""
    if not model.process.ends_in_noise or get_prediction(model.prediction).by_level:
        raise UserError("restoring images needs a process that ends in noise (gaussian, blurring)")
    if not model.process.keeps_every_frequency:
        model.check_statistics(needed_by="restoring images, with a process of min_gain 0,")


def restoration_settings(model: Any) -> SamplingSettings:
    """The settings that restoring has unless told otherwise; or a UserError, as `check_restores`."""
    check_restores(model)
    return model.sampling_settings(**_own_settings(model))


def _own_settings(model):
    return _SETTINGS if model.distilled_guidance is None else {}


def _restored(model: Any, measured: InverseProblem, seeds: Any, sampling: RestorationArguments) -> np.ndarray:
    check_restores(model)
    if "strength" in sampling:
        raise UserError("strength cannot be given here: restoring starts from noise alone")
    count = len(measured.value)
    seeds = checked_seeds(np.arange(count) if seeds is None else seeds, count=count)
    settings = {**_own_settings(model), **{name: value for name, value in sampling.items() if value is not None}}
    return draw_images(model, start_of(model, seeds), SeededNoise(seeds), measured=measured, **settings)


def _checked_column(name, values, count, least):
    array = as_array(name, values)
    is_numbers = array.dtype.kind in "iuf" and array.shape in ((), (count,))
    if not is_numbers or not ((array >= least) & (array <= LARGEST)).all():
        raise UserError(
            f"{name} must be {least:g} or more, at most {LARGEST:,.0f}, one number or one an image. "
            f"Received: {values!r}"
        )
    return np.broadcast_to(array, (count,)).astype(np.float32)


def _checked_noise_std(values, count):
    # Of no noise at all the measurement would leave no room for rounding in float32.
    return _checked_column("noise_std", values, count, least=1e-4)


def _smaller_shape(given, image_shape):
    height, width, channels = image_shape
    factors = [factor for factor in range(2, height + 1) if height % factor == 0 == width % factor]
    smaller = [(height // factor, width // factor, channels) for factor in factors]
    if not smaller:
        raise UserError(f"images of {height}x{width} have no smaller ones: no number divides both sides")
    if given[1:] not in smaller:
        raise UserError(
            f"images must be of shape (B, h, w, {channels}) with (h, w) one of "
            f"{', '.join(str(shape[:2]) for shape in smaller)}. Received: shape {given}"
        )
    return given[1:]
