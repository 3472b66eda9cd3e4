"""A training run: the loop, its directory, its reports."""

from tf_blurdiff.training.distillation import distill
from tf_blurdiff.training.interruption import Interruption
from tf_blurdiff.training.loop import train

__all__ = ["Interruption", "distill", "train"]
