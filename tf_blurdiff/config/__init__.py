"""YAML to checked values to objects."""

from tf_blurdiff.config.loading import build_images, build_process, load_config, save_config, with_pictures
from tf_blurdiff.config.schema import Config, Train

__all__ = ["Config", "Train", "build_images", "build_process", "load_config", "save_config", "with_pictures"]
