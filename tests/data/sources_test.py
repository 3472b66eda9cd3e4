import numpy as np
import pytest
import tensorflow as tf

from tests.support.images import numbered
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.sources import Images, open_images


def test_batches_keep_the_order_and_the_last_has_what_is_left():
    batches = numbered(130).batches(64, labels=True)
    assert batches.element_spec[0].shape.as_list() == [None, 2, 3, 1] and len(batches) == 3
    pixels, labels = (list(column) for column in zip(*batches.as_numpy_iterator()))
    assert [len(each) for each in pixels] == [64, 64, 2]
    for column in (np.concatenate(pixels)[:, 0, 0, 0], np.concatenate(labels)):
        np.testing.assert_array_equal(column, range(130))
    assert numbered(3).batches(2).element_spec == tf.TensorSpec((None, 2, 3, 1), tf.uint8)


def test_batches_of_some_images_read_those_alone():
    read = []

    def fetch(indices):
        read.extend(indices)
        return np.asarray(indices, np.uint8)[:, None, None, None]

    batches = Images(fetch, 130, (1, 1, 1)).batches(3, indices=[7, 7, 1, 129])
    assert [pixels.ravel().tolist() for pixels in batches.as_numpy_iterator()] == [[7, 7, 1], [129]]
    assert sorted(read) == [1, 7, 7, 129]


def test_shuffled_batches_have_another_order_in_every_pass_and_the_same_again():
    def passes(seed):
        tf.random.set_seed(0)
        batches = numbered(30).batches(10, labels=True, shuffle_seed=seed)
        return [np.concatenate([labels for _, labels in batches.as_numpy_iterator()]).tolist() for _ in range(2)]

    first, second = passes(seed=3)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second and passes(seed=3) == [first, second] and passes(seed=4)[0] != first


@pytest.mark.parametrize("count, expected", [(1, [0]), (4, [0, 32, 65, 97]), (130, range(130)), (999, range(130))])
def test_some_indices_are_evenly_spaced(count, expected):
    assert numbered(130).evenly_spaced(count).tolist() == list(expected)


def test_labels_that_are_not_there_are_an_error():
    with pytest.raises(DataError, match="labels: got True, expected False"):
        numbered(3, labels=False).batches(2, labels=True)


def test_an_image_that_cannot_be_read_is_a_plain_error():
    def fetch(indices):
        if 5 in indices:
            raise DataError("the file is damaged")
        return np.zeros((len(indices), 1, 1, 1), np.uint8)

    images = Images(fetch, 8, (1, 1, 1))
    for read in (lambda: list(images.batches(2)), lambda: images.read(np.array([5]))):
        with pytest.raises(DataError, match=r"^the file is damaged$"), images.plain_errors():
            read()
    # As well where it is held out.
    learned = Images(lambda indices: np.zeros((len(indices), 1, 1, 1), np.uint8), 8, (1, 1, 1), held_out=images)
    with pytest.raises(DataError, match=r"^the file is damaged$"), learned.plain_errors():
        list(learned.held_out.batches(2))
    # TensorFlow's own are left alone, also after one of the data.
    with pytest.raises(tf.errors.OpError), images.plain_errors():
        tf.raw_ops.AddV2(x=[1.0, 2.0], y=[1.0, 2.0, 3.0])


def test_digits():
    digits = open_images("digits", 8, 1)
    assert (digits.num_images, digits.image_shape, digits.num_classes) == (1797, (8, 8, 1), 10)
    # The first row of the first digit is 0 0 5 13 9 1 0 0, of 16.
    assert digits.read(tf.range(1))[0, 0, :, 0].numpy().tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert digits.labels[0] == 0
    assert open_images("digits", [16, 12], 1).read(tf.range(2)).shape == (2, 16, 12, 1)


@pytest.mark.parametrize(
    "split, part",
    [
        ("train", slice(None)), ("train[:80%]", slice(1438)), ("train[80%:]", slice(1438, None)),
        ("train[10:30]", slice(10, 30)), ("train[-5:]", slice(-5, None)), ("train[-10%:]", slice(-180, None)),
    ],
)  # fmt: skip
def test_digits_come_in_parts(split, part):
    everything, some = (open_images("digits", 8, 1, split=name) for name in ("train", split))
    indices = np.arange(everything.num_images)
    assert some.num_images == len(indices[part])
    np.testing.assert_array_equal(some.read(np.arange(some.num_images)), everything.read(indices[part]))
    np.testing.assert_array_equal(some.labels, everything.labels[part])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"source": "imagenet"}, "source: got 'imagenet', expected one of digits, image_folder, tfds"),
        ({"source": "digits", "channels": 2}, "channels: got 2, expected 1 or 3"),
        ({"source": "digits", "channels": 3}, "channels: got 3, expected 1"),
        ({"source": "digits", "image_size": 0}, "image_size: got 0, expected"),
        ({"source": "digits", "image_size": [8]}, r"image_size: got \[8\], expected"),
        ({"source": "digits", "split": "test"}, "split: got 'test', expected train, or a slice"),
        ({"source": "digits", "split": "train[5:5]"}, r"split: got 'train\[5:5\]', expected train, or a slice"),
        ({"source": "digits", "split": "train[:9%]]"}, "split: got"),
        ({"source": "digits", "cache_gb": -1.0}, "cache_gb: got -1.0, expected a number >= 0"),
        ({"source": "digits", "max_corrupt": -1}, "max_corrupt: got -1, expected an integer >= 0"),
        ({"source": "image_folder"}, "root: got 'None', which is not a folder; expected a folder"),
        ({"source": "image_folder", "root": "/no/such"}, "root: got '/no/such', which is not a folder"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(DataError, match=message) as caught:
        open_images(**{"image_size": 8, "channels": 1, **arguments})
    assert "\n" not in str(caught.value)
