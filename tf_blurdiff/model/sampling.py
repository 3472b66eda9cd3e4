"""How a `DiffusionModel` samples: from seeds, from images, between seeds, from bands of two seeds.

All of it is `start` and `advance`, which are traced. `draw` is both in one, for the export and for `generation`.
"""

import math

import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from tf_blurdiff.diffusion.dct import dct2, idct2, laplacian_eigenvalues
from tf_blurdiff.diffusion.grids import get_grid
from tf_blurdiff.diffusion.inverse_problems import consistent, error_variance
from tf_blurdiff.diffusion.predictions import get_prediction
from tf_blurdiff.diffusion.samplers import get_sampler, run_steps
from tf_blurdiff.diffusion.stateless_random import SeededNoise
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.arguments import (
    check_count,
    check_sampling,
    checked_guidance_scale,
    checked_images,
    checked_labels,
    checked_seeds,
    checked_strength,
    default_delta,
    is_number,
)
from tf_blurdiff.model.priors import UNKNOWN_STD

# A batch of this many pixels (64 images of 32x32) fits any machine that can train the network.
_PIXELS_PER_BATCH = 64 * 32 * 32
# How often a progress bar moves while one batch is sampled.
_PROGRESS_BLOCKS = 20
# A seed's sequences of noise: step i has number i + 1.
_NOISE_AT_START, _PRIOR, _PRIOR_CHOICE = 0, -1, -2
# Without noise, what breaks the symmetry of a constant image (Bansal et al., 2022).
_SYMMETRY_BREAKING = 0.002


class SamplingMethods:
    """The sampling half of `DiffusionModel`, which has the attributes that it works on."""

    def sample(
        self,
        seeds,
        num_steps=None,
        sampler=None,
        eta=0.0,
        labels=None,
        guidance_scale=1.0,
        *,
        grid=None,
        delta=None,
        noise_seeds=None,
        images=None,
        strength=1.0,
        batch_size=None,
        return_trajectory=False,
        verbose=False,
    ):
        """Draws one image for each seed; an image depends on its own seed (and label) alone.

        Args:
            seeds: integers `[B]`, any that fit int64.
            num_steps: calls of the network; None takes the model's own. With the prediction "less_blurred" it is the
                number of the process's levels.
            sampler: "ancestral", "ancestral2", "ddim", "multistep2", "multistep3", "heat", "cold" or "cold_naive", as
                far as process and prediction allow; None takes the model's own.
            eta: in [0, 1]: the noise of "ddim"; 0 is deterministic.
            labels: integers `[B]` in [0, num_classes), for a model with labels; one with label dropout may go without.
            guidance_scale: of classifier-free guidance, 0 or more, a number or `[B]`: 1 is the conditional model, above
                that images are more typical of their label. For a model with label dropout.
            grid: the times, "uniform", "quadratic" or "logsnr"; None takes the model's own, or the sampler's.
            delta: standard deviation of the noise of "heat", on the scale of [-1, 1]; None takes 1.25 times the
                process's sigma.
            noise_seeds: integers `[B]`, seeds of what the steps draw, if not those that choose the start.
            images: `[B, H, W, C]` in [-1, 1]: start from these, diffused to t = strength, instead of the prior.
            strength: in (0, 1], how much of the process is undone when images are given.
            batch_size: images in memory at once; None chooses.
            return_trajectory: whether to return every `z_t` instead.
            verbose: whether to show a progress bar.

        Returns:
            float32 array `[B, H, W, C]` in [-1, 1]. With return_trajectory `[num_steps + 1, B, H, W, C]`: z_t at
            t = 1, ..., 0, not clipped.

        Raises:
            UserError: for an argument that is not allowed.
        """
        seeds = checked_seeds(seeds)
        noise_seeds = seeds if noise_seeds is None else checked_seeds(noise_seeds, "noise_seeds", len(seeds))
        settings, times = self.sampling(sampler, num_steps, grid, eta, delta, strength)
        conditions = self.conditions(labels, guidance_scale, len(seeds))
        if images is None:
            if strength != 1.0:
                raise UserError(f"strength is for images that are given; without, it is 1. Received: {strength!r}")
            self.check_prior()
            start = lambda rows: self.start(SeededNoise(seeds[rows]), conditions[0][rows])
        else:
            images = checked_images(images, self.image_shape, len(seeds))
            start = lambda rows: self.start_from(images[rows], times[0], SeededNoise(seeds[rows]))
        noise = SeededNoise(noise_seeds)
        return self._run(start, noise, conditions, times, settings, batch_size, return_trajectory, verbose)

    def interpolate(self, first_seed, last_seed, num_images=8, **sampling):
        """Images on the way from one seed to another, the seeds' own at the ends.

        What is standard normal goes along an arc, so that it stays so: the noise of the steps, and the start of a
        process that ends in noise. Another start goes along a line.

        Args:
            first_seed, last_seed: two different integers.
            num_images: integer of 2 or more.
            **sampling: arguments of `sample`, but not noise_seeds, images and strength.

        Returns:
            As `sample`, for num_images images.

        Reference: Rissanen et al., 2023, section 4.
        """
        ends = checked_seeds([first_seed, last_seed])
        if ends[0] == ends[1] or not isinstance(num_images, (int, np.integer)) or num_images < 2:
            given = f"{first_seed!r}, {last_seed!r}, num_images={num_images!r}"
            raise UserError(f"interpolate goes between two different seeds in at least 2 images. Received: {given}")
        share = np.linspace(0.0, 1.0, num_images, dtype=np.float32)[:, None, None, None]
        arc = np.cos(0.5 * np.pi * share), np.sin(0.5 * np.pi * share)
        start_weights = arc if self.process.ends_in_noise else (1.0 - share, share)
        return self._mix(np.repeat(ends[:1], num_images), np.repeat(ends[1:], num_images), start_weights, arc, sampling)

    def mix_bands(self, coarse_seeds, detail_seeds, cutoff=0.25, **sampling):
        """Images with the coarse structure of one seed's noise and the details of another's.

        Args:
            coarse_seeds, detail_seeds: integers, `[B]` each.
            cutoff: the frequency that divides them, above 0, as a fraction of the highest along an axis.
            **sampling: arguments of `sample`, but not noise_seeds, images and strength.

        Returns:
            As `sample`.
        """
        coarse_seeds = checked_seeds(coarse_seeds, "coarse_seeds")
        detail_seeds = checked_seeds(detail_seeds, "detail_seeds", len(coarse_seeds))
        if not is_number(cutoff) or not cutoff > 0:
            raise UserError(f"cutoff must be above 0. Received: {cutoff!r}")
        frequency = np.sqrt(laplacian_eigenvalues(*self.image_shape[:2])) / np.pi
        coarse = (frequency < cutoff).astype(np.float32)[None, :, :, None]
        coarse = np.repeat(coarse, len(coarse_seeds), axis=0)
        weights = coarse, 1.0 - coarse
        return self._mix(coarse_seeds, detail_seeds, weights, weights, sampling)

    def _mix(self, seeds, others, start_weights, noise_weights, arguments):
        wrong = arguments.keys() & {"noise_seeds", "images", "strength"}
        if wrong:
            raise UserError(f"{', '.join(sorted(wrong))} cannot be given here: start and noise come from the two seeds")
        names = ("sampler", "num_steps", "grid", "eta", "delta")
        settings, times = self.sampling(**{name: arguments.pop(name) for name in names if name in arguments})
        guidance = arguments.pop("labels", None), arguments.pop("guidance_scale", 1.0)
        conditions = self.conditions(*guidance, len(seeds))
        self.check_prior()

        def start(rows):
            states = [self.start(SeededNoise(each[rows]), conditions[0][rows]) for each in (seeds, others)]
            return sum(weight[rows] * state for weight, state in zip(start_weights, states))

        noise = SeededNoise(seeds, others, *noise_weights)
        return self._run(start, noise, conditions, times, settings, **arguments)

    def _run(
        self, start, noise, conditions, times, settings, batch_size=None, return_trajectory=False, verbose=False,
        observation=None,
    ):  # fmt: skip
        batch_size = self.images_at_once(batch_size)
        count, num_steps = len(noise.seeds), len(times) - 1
        block = 1 if return_trajectory else -(-num_steps // _PROGRESS_BLOCKS) if verbose else num_steps
        results = []
        with tqdm(total=count * num_steps, disable=not verbose, desc="sampling", unit="step") as progress:
            for first_row in range(0, count, batch_size):
                rows = slice(first_row, first_row + batch_size)
                batch_noise = SeededNoise(*(part if part is None else part[rows] for part in noise))
                arguments = batch_noise, *(part[rows] for part in conditions), times
                observed = None if observation is None else observation.rows(rows)
                state = self.first_state(start(rows), settings)
                images = [idct2(state[0]).numpy()] if return_trajectory else []
                for first in range(0, num_steps, block):
                    last = min(first + block, num_steps)
                    state = self.advance(state, *arguments, tf.constant(first), tf.constant(last), settings, observed)
                    if return_trajectory or last == num_steps:
                        images.append(idct2(state[0]).numpy())
                    progress.update(len(batch_noise.seeds) * (last - first))
                results.append(images)
        images = [np.concatenate(batches) for batches in zip(*results)]
        return np.stack(images) if return_trajectory else np.clip(images[0], -1.0, 1.0)

    # What the export and `generation` trace

    def sampling(self, sampler=None, num_steps=None, grid=None, eta=0.0, delta=None, strength=1.0):
        """Fills in the model's own settings and checks all.

        Returns:
            `samplers.Sampling`, and its times from `strength` to 0, float32 `[num_steps + 1, 1]`.

        Raises:
            UserError: for what is not allowed, or does not fit the model's process and prediction.
        """
        sampler = self.sampler if sampler is None else sampler
        num_steps = self.num_steps if num_steps is None else num_steps
        grid = self.grid if grid is None else grid
        grid = get_sampler(sampler).grid if grid is None else grid
        delta = default_delta(self.process, sampler) if delta is None else delta
        settings = check_sampling(self.process, self.prediction, sampler, num_steps, grid, eta, delta)
        strength = checked_strength(strength)
        if get_prediction(self.prediction).by_level and strength < 1.0:
            level = max(1, round(strength * num_steps))
            settings, strength = settings._replace(num_steps=level), level / num_steps
        times = np.float32(strength) * get_grid(grid)(settings.num_steps, self.process)
        return settings, times[:, None]

    @tf.function(autograph=False, reduce_retracing=True)
    def start(self, noise, labels):
        """Traced: the state at t = 1, `[B, H, W, C]` in the DCT basis, for a `SeededNoise` and int64 labels `[B]`."""
        normals = noise.draw(_NOISE_AT_START, self.image_shape)
        if self.process.ends_in_noise:
            return normals
        of_prior, choice = noise.draw(_PRIOR, self.image_shape), noise.draw(_PRIOR_CHOICE, (1,))
        blurred_freq = self.prior(of_prior, choice, self.freq_mean, self.freq_std, labels)
        sigma = self.process.marginal([1.0], *self.image_shape[:2]).sigma
        return blurred_freq + ops.maximum(sigma, _SYMMETRY_BREAKING) * normals

    @tf.function(autograph=False, reduce_retracing=True)
    def start_from(self, images, t, noise):
        """Traced: images `[B, H, W, C]` in [-1, 1], diffused to times t, `[B]` or `[1]`, in the DCT basis."""
        at_t = self.process.marginal(t, *self.image_shape[:2])
        return at_t.alpha * dct2(images) + at_t.sigma * noise.draw(_NOISE_AT_START, self.image_shape)

    def first_state(self, z_freq, settings):
        """What `advance` begins with: z_freq, and room for what the sampler remembers."""
        return z_freq, *[tf.zeros_like(z_freq)] * (get_sampler(settings.sampler).order - 1)

    @tf.function(autograph=False, reduce_retracing=True)
    def advance(self, state, noise, labels, guidance_scale, times, first, last, settings, observation=None):
        """Traced: the state after step `last - 1` of the grid, from that before step `first`.

        Args:
            state: from `first_state` or from an earlier call.
            noise: a `SeededNoise`, of the steps.
            labels: int64 `[B]`; num_classes for none; not used by a model without.
            guidance_scale: float32 `[B]`; not used by a model without label dropout.
            times: float32 `[num_steps + 1, 1 or B]`, decreasing.
            first, last: int32 scalars.
            settings: a `samplers.Sampling`.
            observation: an `observations.Observation` that every estimate of x0 is made consistent with, or None.
        """
        sampler, prediction = get_sampler(settings.sampler), get_prediction(self.prediction)

        def denoise(z_freq, t, at_t, at_s):
            output = ops.cast(self._guided_call(idct2(z_freq), t, labels, guidance_scale), "float32")
            return prediction.estimate(dct2(output), z_freq, at_t, at_s, self._pull(observation, at_t))

        def draw_noise(i):
            return noise.draw(i + 1, self.image_shape)

        return run_steps(
            lambda step: sampler.step(step, settings),
            denoise,
            self.process,
            draw_noise if sampler.draws_noise(settings) else None,
            state,
            times,
            first,
            last,
            sampler.remembers,
        )

    def _pull(self, observation, at_t):
        if observation is None:
            return self.shrink
        variance = error_variance(self.freq_std, at_t)
        return lambda *estimate: consistent(observation, self.shrink(*estimate), variance)

    def draw(self, seeds, noise_seeds, labels, guidance_scale, times, settings, images=None, observation=None):
        """Whole images, for graphs: what `sample` draws, without its checks.

        Args:
            seeds, noise_seeds: int64 `[B]`, of the start and of the steps.
            labels, guidance_scale: as in `advance`.
            times, settings: from `sampling`.
            images: float32 `[B, H, W, C]` in [-1, 1], to start from at times[0]; None for the prior.
            observation: as in `advance`.

        Returns:
            float32 `[B, H, W, C]` in [-1, 1].
        """
        noise = SeededNoise(seeds)
        start = self.start(noise, labels) if images is None else self.start_from(images, times[0], noise)
        state = self.first_state(start, settings)
        span = tf.constant(0), tf.constant(settings.num_steps)
        arguments = SeededNoise(noise_seeds), labels, guidance_scale, times
        state = self.advance(state, *arguments, *span, settings, observation)
        return tf.clip_by_value(idct2(state[0]), -1.0, 1.0)

    def _guided_call(self, z, t, labels, guidance_scale):
        """Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, equation 6."""
        if not self.label_dropout:
            return self.averaged_call(self.network_inputs(z, t, labels))

        def guided():
            twice = [ops.concatenate([each, each]) for each in (z, t)]
            without = ops.full_like(labels, self.num_classes)
            both = self.averaged_call(self.network_inputs(*twice, ops.concatenate([labels, without])))
            conditional, unconditional = ops.split(ops.cast(both, "float32"), 2)
            scale = guidance_scale[:, None, None, None]
            return unconditional + scale * (conditional - unconditional)

        def conditional():
            return ops.cast(self.averaged_call(self.network_inputs(z, t, labels)), "float32")

        return tf.cond(tf.reduce_all(guidance_scale == 1.0), conditional, guided)

    def shrink(self, freq, scale, spread):
        """Pulls an estimate of `scale * x0_freq` towards the data's mean, per DCT coefficient.

        Without this, 1 / alpha_t turns the network's error at high frequencies into an explosion. First a Wiener
        weight: of the variance that the estimate has, the share that is the data's and not that of an error of standard
        deviation assumed_error in the network's output. Then a bound of clip_stds of the data's standard deviations.

        Args:
            freq: `[B, H, W, C]`.
            scale: of the same rank.
            spread: what an error of 1 in the network's output makes of freq, `[B, H, W, 1]`, or None.
        """
        mean, std = scale * self.freq_mean, scale * self.freq_std
        if spread is not None and self.assumed_error:
            freq = mean + (freq - mean) / (1.0 + ops.square(self.assumed_error * spread / std))
        if self.clip_stds is None:
            return freq
        return ops.clip(freq, mean - self.clip_stds * std, mean + self.clip_stds * std)

    # What is allowed

    def check_prior(self):
        """Raises a UserError if sampling starts from blurred data and `adapt` was not called."""
        if not self.process.ends_in_noise and np.max(self.freq_std) >= UNKNOWN_STD:
            raise UserError(
                "this process starts from what blur leaves of the data, which the model does not know yet: call adapt "
                "with the training images, or give images"
            )

    def images_at_once(self, batch_size=None):
        """The batch size as it is given, or else one that fits; or a UserError."""
        check_count("batch_size", 1 if batch_size is None else batch_size)
        return batch_size or max(1, _PIXELS_PER_BATCH // math.prod(self.image_shape[:2]))

    def conditions(self, labels, guidance_scale, count):
        """Labels int64 `[count]` and guidance scales float32 `[count]`, or a UserError."""
        labels = checked_labels(labels, self.num_classes, self.label_dropout, count)
        return labels, checked_guidance_scale(guidance_scale, self.label_dropout, count)
