"""Step grids: the decreasing times at which a sampler calls the network, float32 `[num_steps + 1]` from 1 to 0.

A grid is a function of num_steps and of the process.
"""

from collections.abc import Callable

import numpy as np
from keras import ops

from tf_blurdiff.diffusion.process import Process
from tf_blurdiff.errors import UserError, one_of


def uniform_times(num_steps: int, process: Process | None = None) -> np.ndarray:
    """Even steps: 1, 1 - 1/num_steps, ..., 0.

    Example:
        >>> uniform_times(4).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return (1.0 - np.arange(num_steps + 1) / num_steps).astype(np.float32)


def quadratic_times(num_steps: int, process: Process | None = None) -> np.ndarray:
    """Ever shorter steps: `(1 - i / num_steps)^2`.

    Example:
        >>> quadratic_times(4).tolist()
        [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    return ((1.0 - np.arange(num_steps + 1) / num_steps) ** 2).astype(np.float32)


def logsnr_times(num_steps: int, process: Process) -> np.ndarray:
    """Even steps of the noise schedule's log-SNR, for a process that ends in noise.

    Example:
        >>> import tf_blurdiff as bd
        >>> [round(t, 3) for t in logsnr_times(4, bd.process.gaussian()).tolist()]
        [1.0, 0.952, 0.5, 0.048, 0.0]
    """
    if not process.ends_in_noise:
        raise UserError("grid logsnr needs a process that ends in noise; with this one it must be uniform or quadratic")
    log_a, log_sigma = (ops.convert_to_numpy(each) for each in process.noise(np.array([1.0, 0.0], np.float32)))
    highest, lowest = log_a - log_sigma
    times = ops.convert_to_numpy(process.noise.time_of(np.linspace(highest, lowest, num_steps + 1)))
    # Rounding must not move the ends.
    return np.concatenate([[1.0], times[1:-1], [0.0]]).astype(np.float32)


GRIDS: dict[str, Callable[[int, Process], np.ndarray]] = {
    "uniform": uniform_times,
    "quadratic": quadratic_times,
    "logsnr": logsnr_times,
}


def get_grid(name: str) -> Callable[[int, Process], np.ndarray]:
    """The grid of that name; a UserError lists the names there are."""
    one_of("grid", name, GRIDS)
    return GRIDS[name]
