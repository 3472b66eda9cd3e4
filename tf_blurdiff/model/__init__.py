"""DiffusionModel: network, process, prediction and sampler, composed."""

from tf_blurdiff.model.arguments import LARGEST, checked_seeds
from tf_blurdiff.model.diffusion_model import DiffusionModel
from tf_blurdiff.model.distillation import DISTILLATION_GRIDS, student_of
from tf_blurdiff.model.learning import ema_losses, train_step
from tf_blurdiff.model.loading import find_model, load_model, load_pretrained
from tf_blurdiff.model.restoration import check_restores, restoration_settings
from tf_blurdiff.model.sampling import Conditions, images_at_once

__all__ = [
    "DISTILLATION_GRIDS",
    "LARGEST",
    "Conditions",
    "DiffusionModel",
    "check_restores",
    "checked_seeds",
    "ema_losses",
    "find_model",
    "images_at_once",
    "load_model",
    "load_pretrained",
    "restoration_settings",
    "student_of",
    "train_step",
]
