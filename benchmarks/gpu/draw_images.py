"""Draws images in float32 without TF32, first as they are and then compiled: `draw_images.py MODEL OUT COUNT STEPS`.

They are in OUT-plain.npy and OUT-compiled.npy, float32 in [-1, 1]; image i has the seed i.
"""

import os
import sys

import numpy as np
import tensorflow as tf

import tf_blurdiff as bd


def main(model, out, count, steps):
    """Writes each file as soon as its images are there."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    model = bd.load_model(model, precision="float32")
    for how, model.compiling in (("plain", "off"), ("compiled", "on")):
        images = model.sample(range(int(count)), int(steps))
        np.save(f"{out}-new.npy", images)
        os.replace(f"{out}-new.npy", f"{out}-{how}.npy")


if __name__ == "__main__":
    main(*sys.argv[1:])
