import numpy as np
import pytest
import tensorflow as tf

from tf_blurdiff.data.kept import KeptPixels, empty_pixels
from tf_blurdiff.data.sources import in_memory


def test_pictures_are_read_where_they_were_put():
    pixels = empty_pixels((5, 2, 2, 1))
    kept = KeptPixels(pixels, complete=False)
    assert kept.pixels is pixels
    # Before TensorFlow has seen them, and after.
    for index, value in ((1, 7), (4, 9)):
        kept.put(index, np.full((2, 2, 1), value))
        assert kept.gather(tf.constant([index])).numpy().ravel().tolist() == [value] * 4
    assert kept.missing(np.array([0, 1, 3, 4])).tolist() == [0, 3]
    assert [bool(kept.has(tf.constant(indices))) for indices in ([1, 4], [4, 0])] == [True, False]


def test_a_dataset_reads_them_without_a_copy():
    pixels = empty_pixels((4, 1, 1, 1))
    pixels[...] = 1
    images = in_memory(pixels)
    dataset = tf.data.Dataset.from_tensors(tf.range(4)).repeat(1000).map(images.read)
    batches = dataset.as_numpy_iterator()
    assert next(batches).tolist() == np.ones((4, 1, 1, 1)).tolist()
    pixels[...] = 2
    # Some may have been read ahead.
    assert list(batches)[-1].tolist() == np.full((4, 1, 1, 1), 2).tolist()


@pytest.mark.parametrize("shift", [0, 1, 32])
def test_an_array_at_any_place_can_be_kept(shift):
    memory = np.arange(400, dtype=np.uint8)[shift : shift + 300].reshape(100, 1, 3, 1)
    for array in (memory, memory[::2], memory[:, :, ::-1]):
        kept = KeptPixels(array)
        np.testing.assert_array_equal(kept.gather(tf.constant([0, 49, 3])), array[[0, 49, 3]])


def test_an_array_that_may_not_be_written_can_be_kept():
    array = empty_pixels((3, 1, 1, 1))
    array[...] = 5
    array.flags.writeable = False
    assert KeptPixels(array).gather(tf.constant([2])).numpy().tolist() == [[[[5]]]]


def test_most_are_nine_in_ten():
    kept = KeptPixels(empty_pixels((10, 1, 1, 1)), complete=False)
    for index in range(9):
        assert not kept.has_most()
        kept.put(index, np.zeros((1, 1, 1)))
    assert kept.has_most() and KeptPixels(kept.pixels).has_most()


def test_an_array_mapped_from_a_file_is_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1))
    images = in_memory(np.load(tmp_path / "images.npy", mmap_mode="r"))
    assert images.read(np.array([2]))[0, 0, 0, 0] == 8 and not images.are_in_memory()
