"""A training run: the loop, its directory, its reports."""

from tf_blurdiff.training.distillation import distill
from tf_blurdiff.training.interruption import Interruption
from tf_blurdiff.training.loop import train
from tf_blurdiff.training.model_card import own_words

__all__ = ["Interruption", "distill", "own_words", "train"]
