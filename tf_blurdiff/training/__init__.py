"""A training run: the loop, its directory, what it tells."""

from tf_blurdiff.training.interruption import Interruption
from tf_blurdiff.training.loop import train

__all__ = ["Interruption", "train"]
