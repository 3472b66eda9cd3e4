"""The denoiser, from z_t to an estimate of the image: network, guidance, prediction and the data's statistics."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf
from keras import ops

from tf_blurdiff.compilation import is_for_other_runtimes
from tf_blurdiff.diffusion.dct import dct2, idct2
from tf_blurdiff.diffusion.inverse_problems import error_variance
from tf_blurdiff.diffusion.predictions import Estimate, Prediction
from tf_blurdiff.diffusion.process import Marginal

ASSUMED_ERROR = 0.05  # The standard deviation of the network's error in eps or v.
BOUND = 3.0  # Of the data's standard deviations.


class SpectralGuard(NamedTuple):
    """Keeps estimates within what the data's DCT coefficients are.

    `1 / alpha_t` turns the network's error at high frequencies into an explosion. First a Wiener weight: of the
    variance that an estimate has, the share that is the data's and not that of an error of ASSUMED_ERROR in the
    network's output; predictions that amplify no error (x0, preconditioned, less_blurred) go without.
    Then a bound of BOUND standard deviations of the data.
    """

    freq_mean: Any  # of the data, [H, W, C]
    freq_std: Any

    def __call__(self, freq: Any, scale: Any = 1.0, spread: Any = None) -> Any:
        """Pulls an estimate of `scale * x0_freq` towards the data's mean.

        Args:
            freq: `[B, H, W, C]` in the DCT basis.
            scale: of the same rank, or a number.
            spread: what an error of 1 in the network's output makes of freq, `[B, H, W, 1]`; None for no Wiener weight.
        """
        mean, std = scale * self.freq_mean, scale * self.freq_std
        if spread is not None:
            freq = mean + (freq - mean) / (1.0 + ops.square(ASSUMED_ERROR * spread / std))
        return ops.clip(freq, mean - BOUND * std, mean + BOUND * std)


class InverseProblem(Protocol):
    """One of `diffusion.inverse_problems`."""

    @property
    def value(self) -> Any:
        """What was measured, one row an image."""

    def consistent(self, x0_freq: Any, variance: Any) -> Any:
        """An estimate that agrees with what was measured."""


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """`(z_freq, t, at_t, at_s, ...) -> Estimate`, a pure function of its arguments and of the model's variables.

    Attributes:
        network: `[z, t]`, or `[z, t, label]`, to the output, `[B, H, W, C]` in pixel space.
        prediction: what that output is, for the data's statistics if it needs them.
        guard: keeps the estimate within the data's spectrum; None for the network's own estimate.
        takes_labels: whether the network takes labels.
        no_label: the label of "none" of a model that can be guided; None for one that cannot.
    """

    network: Callable[[list[Any]], Any]
    prediction: Prediction
    guard: SpectralGuard | None = None
    takes_labels: bool = False
    no_label: int | None = None

    def __call__(
        self,
        z_freq: Any,
        t: Any,
        at_t: Marginal,
        at_s: Marginal,
        labels: Any = None,
        guidance_scale: Any = None,
        measured: InverseProblem | None = None,
    ) -> Estimate:
        """What the step from t to s needs to know.

        Args:
            z_freq: `[B, H, W, C]` in the DCT basis.
            t: times, float32 `[B]`.
            at_t, at_s: the process's `Marginal` at t and at the time s < t that the step goes to.
            labels: int64 `[B]`, for a network that takes them.
            guidance_scale: float32 `[B]`; None for no guidance.
            measured: what every estimate of x0 is made consistent with, or None.
        """
        output = self._guided(idct2(z_freq), t, labels, guidance_scale)
        estimate = self.prediction.estimate(dct2(output), z_freq, at_t, at_s)
        if self.guard is None:
            return estimate
        if estimate.x0_freq is None:
            return estimate._replace(mean_freq=self.guard(estimate.mean_freq, scale=at_s.alpha))
        x0_freq = self.guard(estimate.x0_freq, spread=self.prediction.spread(at_t))
        if measured is not None:
            x0_freq = measured.consistent(x0_freq, error_variance(self.guard.freq_std, at_t))
        return estimate.with_x0(x0_freq, z_freq, at_t, at_s)

    def unguarded(self) -> "Denoiser":
        """The network's own estimates, as the variational bound is of."""
        return dataclasses.replace(self, guard=None)

    def _guided(self, z, t, labels, guidance_scale):
        """Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, equation 6."""
        if self.no_label is None or guidance_scale is None:
            return self._output(z, t, labels)

        def guided():
            # One call, on twice the batch.
            z_twice, t_twice = (ops.concatenate([each, each]) for each in (z, t))
            both = self._output(z_twice, t_twice, ops.concatenate([labels, ops.full_like(labels, self.no_label)]))
            conditional, unconditional = ops.split(both, 2)
            return unconditional + guidance_scale[:, None, None, None] * (conditional - unconditional)

        if is_for_other_runtimes():  # tf2onnx loses the shapes in a branch.
            return guided()
        return tf.cond(tf.reduce_all(guidance_scale == 1.0), lambda: self._output(z, t, labels), guided)

    def _output(self, z, t, labels):
        return ops.cast(self.network([z, t, labels] if self.takes_labels else [z, t]), "float32")
