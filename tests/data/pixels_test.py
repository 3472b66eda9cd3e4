import numpy as np
import tensorflow as tf

from tf_blurdiff.data.pixels import to_uint8, to_unit_range


def test_pixels_survive_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8)
    x = to_unit_range(pixels)
    assert x.dtype == tf.float32 and float(x[0]) == -1.0 and float(x[-1]) == 1.0
    np.testing.assert_array_equal(tf.function(to_uint8)(x), pixels)


def test_a_pixel_is_the_same_number_in_any_graph():
    pixels = np.arange(256, dtype=np.uint8)
    numbers = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    for function in (to_unit_range, tf.function(to_unit_range), tf.function(to_unit_range, jit_compile=True)):
        np.testing.assert_array_equal(function(tf.constant(pixels)), numbers)


def test_to_uint8_rounds_and_clips():
    x = np.array([-7.0, -1.0 + 0.6 / 127.5, -1.0 + 1.4 / 127.5, 1.0 - 0.4 / 127.5, 9.0], "float32")
    np.testing.assert_array_equal(to_uint8(x), [0, 1, 1, 255, 255])
