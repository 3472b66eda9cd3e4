"""How a `DiffusionModel` restores images: sharper, larger, or with a part filled in.

The model is that of whole images; it was not trained for any of this. It samples as it does from nothing, and every
estimate of the image on the way is made consistent with what is known of it (`observations`).
"""

import numpy as np
from keras import ops

from tf_blurdiff.diffusion.dct import dct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.inverse_problems import ROUNDING_STD, Observation
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.stateless_random import SeededNoise
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.arguments import checked_images, checked_seeds

# Steps that draw anew do not carry on what an early estimate got wrong.
RESTORATION_SAMPLER, RESTORATION_STEPS = "ancestral", 50


def blurred(images, blur_sigma, noise_std):
    """The `Observation` that images `[B, H, W, C]` in [-1, 1] are, blurred as by `layers.HeatBlur`.

    blur_sigma, in pixels, and noise_std are float32 `[B]`.
    """
    eigenvalues = laplacian_eigenvalues(*images.shape[1:3])[None, :, :, None]
    gain = ops.exp(-0.5 * eigenvalues * ops.square(_column(blur_sigma)))
    return Observation("blurred", dct2(images), gain, _column(noise_std))


def averaged(images, noise_std):
    """The `Observation` that images `[B, h, w, C]` in [-1, 1] are, each of whose pixels is the mean of a square."""
    noise_std = _column(noise_std)
    return Observation("averaged", dct2(images), ops.ones_like(noise_std), noise_std)


def masked(images, mask, noise_std):
    """The `Observation` that images `[B, H, W, C]` in [-1, 1] are where mask, `[B, H, W, 1]`, is 0."""
    known = ops.cast(ops.equal(mask, 0), "float32")
    return Observation("masked", ops.convert_to_tensor(images), known, _column(noise_std))


class RestorationMethods:
    """The restoring half of `DiffusionModel`, which has the attributes that it works on."""

    def deblur(self, images, blur_sigma, seeds=None, noise_std=ROUNDING_STD, **sampling):
        """Images that, blurred, are the given ones.

        Args:
            images: blurred images, floats `[B, H, W, C]` in [-1, 1]. The blur is that of heat, with mirrored borders,
                as `layers.HeatBlur` does; a Gaussian one of the same standard deviation is close to it.
            blur_sigma: the blur's standard deviation in pixels, 0 or more, a number or `[B]`.
            seeds: integers `[B]`: another seed is another image that fits; None takes 0, 1, ...
            noise_std: standard deviation of the noise on the images, above 0, a number or `[B]`; the least that makes
                sense, and what it is unless told, is that of rounding to 8 bits.
            **sampling: num_steps, sampler, eta, labels, guidance_scale, grid, batch_size, return_trajectory and verbose
                of `sample`. Unless told, 50 steps of "ancestral".

        Returns:
            As `sample`.

        Raises:
            UserError: for an argument that is not allowed, and for a process that does not end in noise.

        Example:
            >>> import tf_blurdiff as bd
            >>> network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1)
            >>> model = bd.DiffusionModel(network, bd.process.gaussian())
            >>> model.adapt([np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 1))])
            >>> blurred = np.zeros((2, 8, 8, 1), "float32")
            >>> model.deblur(blurred, blur_sigma=1.5, num_steps=4).shape
            (2, 8, 8, 1)
        """
        images = checked_images(images, self.image_shape, len(images))
        blur_sigma = _checked_column("blur_sigma", blur_sigma, len(images), least=0.0)
        noise_std = _checked_noise_std(noise_std, len(images))
        return self._restore(blurred(images, blur_sigma, noise_std), seeds, sampling)

    def super_resolve(self, images, seeds=None, noise_std=ROUNDING_STD, **sampling):
        """Larger images, each square of whose pixels has the mean that a pixel of the given ones is.

        Args:
            images: floats `[B, H / f, W / f, C]` in [-1, 1], for the model's `(H, W, C)` and an integer f of 2 or more.
            seeds, noise_std, sampling: as in `deblur`.

        Returns:
            As `sample`.

        Raises:
            UserError: as `deblur`.
        """
        images = checked_images(images, _smaller_shape(np.shape(images), self.image_shape), len(images))
        return self._restore(averaged(images, _checked_noise_std(noise_std, len(images))), seeds, sampling)

    def inpaint(self, images, mask, seeds=None, noise_std=ROUNDING_STD, **sampling):
        """Images with a part filled in.

        Args:
            images: floats `[B, H, W, C]` in [-1, 1]; what they are where the mask is set does not matter.
            mask: `[B, H, W]` or `[B, H, W, 1]`: not 0 (or True) where the image is to be filled in.
            seeds, noise_std, sampling: as in `deblur`.

        Returns:
            As `sample`.

        Raises:
            UserError: as `deblur`.
        """
        images = checked_images(images, self.image_shape, len(images))
        mask = np.asarray(mask)
        if mask.shape not in (images.shape[:3], (*images.shape[:3], 1)) or mask.dtype.kind not in "biuf":
            expected = f"numbers or booleans of shape {images.shape[:3]}"
            raise UserError(f"mask must be {expected}. Received: {mask.dtype} of shape {mask.shape}")
        mask = mask.reshape(*images.shape[:3], 1).astype(np.float32)
        return self._restore(masked(images, mask, _checked_noise_std(noise_std, len(images))), seeds, sampling)

    def check_restores(self):
        """Raises a UserError if the model's process or prediction has no such sampling."""
        if not self.process.ends_in_noise or get_prediction(self.prediction).by_level:
            raise UserError("restoring images needs a process that ends in noise (gaussian, blurring)")

    def restoration_sampling(self, sampler=None, num_steps=None, grid=None, eta=0.0):
        """`sampling`, with the settings that restoring has unless told otherwise."""
        self.check_restores()
        sampler = RESTORATION_SAMPLER if sampler is None else sampler
        return self.sampling(sampler, RESTORATION_STEPS if num_steps is None else num_steps, grid, eta)

    def _restore(self, observation, seeds, arguments):
        count = len(observation.value)
        seeds = checked_seeds(np.arange(count) if seeds is None else seeds, count=count)
        names = ("sampler", "num_steps", "grid", "eta")
        settings, times = self.restoration_sampling(**{n: arguments.pop(n) for n in names if n in arguments})
        conditions = self.conditions(arguments.pop("labels", None), arguments.pop("guidance_scale", 1.0), count)
        start = lambda rows: self.start(SeededNoise(seeds[rows]), conditions[0][rows])
        noise = SeededNoise(seeds)
        return self._run(start, noise, conditions, times, settings, observation=observation, **arguments)


def _column(values):
    return ops.reshape(ops.convert_to_tensor(values, "float32"), (-1, 1, 1, 1))


def _checked_column(name, values, count, least):
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.shape not in ((), (count,)) or not (array >= least).all():
        raise UserError(f"{name} must be {least:g} or more, one number or one an image. Received: {values!r}")
    if not np.isfinite(array).all():
        raise UserError(f"{name} must be finite. Received: {values!r}")
    return np.broadcast_to(array, (count,)).astype(np.float32)


def _checked_noise_std(values, count):
    # Of no noise at all the observation would leave no room for rounding in float32.
    return _checked_column("noise_std", values, count, least=1e-4)


def _smaller_shape(given, image_shape):
    height, width, channels = image_shape
    factors = [factor for factor in range(2, height + 1) if height % factor == 0 == width % factor]
    smaller = [(height // factor, width // factor, channels) for factor in factors]
    if given[1:] not in smaller:
        raise UserError(
            f"images must be of shape (B, h, w, {channels}) with (h, w) one of "
            f"{', '.join(str(shape[:2]) for shape in smaller)}. Received: shape {given}"
        )
    return given[1:]
