import numpy as np
import pytest
import tensorflow as tf

from tf_blurdiff.data import sources as data
from tf_blurdiff.data.sources import DataError, open_images, to_uint8, to_unit_range, training_batches


def numbered(count, shape=(2, 3, 1), labels=True):
    """Images whose top left pixel is their own index."""
    pixels = np.zeros((count, *shape), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return data._in_memory(pixels, np.arange(count) if labels else None, count if labels else None)


def indices_of(dataset, steps):
    return [to_uint8(x)[:, 0, 0, 0].numpy().tolist() for x in dataset.take(steps)]


def test_pixels_survive_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8)
    x = to_unit_range(pixels)
    assert x.dtype == tf.float32 and float(x[0]) == -1.0 and float(x[-1]) == 1.0
    np.testing.assert_array_equal(tf.function(to_uint8)(x), pixels)


def test_to_uint8_rounds_and_clips():
    x = np.array([-7.0, -1.0 + 0.6 / 127.5, -1.0 + 1.4 / 127.5, 1.0 - 0.4 / 127.5, 9.0], "float32")
    np.testing.assert_array_equal(to_uint8(x), [0, 1, 1, 255, 255])


def test_an_epoch_has_each_image_once():
    first, second = np.reshape(indices_of(training_batches(numbered(12), 4, seed=3), 6), (2, 12)).tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second and first != list(range(12))


def test_an_incomplete_batch_is_left_out():
    first, second = np.reshape(indices_of(training_batches(numbered(11), 4, seed=3), 4), (2, 8)).tolist()
    assert len(set(first)) == len(set(second)) == 8
    assert set(first) != set(second)


def test_every_image_reaches_every_place():
    epochs = np.reshape(indices_of(training_batches(numbered(6), 3, seed=0), 1200), (600, 6))
    counts = np.stack([np.bincount(epochs[:, place], minlength=6) for place in range(6)])
    # 100 expected, with a standard deviation of 9.1.
    assert np.abs(counts - 100).max() < 45


def test_the_order_depends_on_the_seed_alone():
    orders = [indices_of(training_batches(numbered(12), 4, seed=seed), 6) for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("start_step", [1, 2, 3, 7])
def test_resuming_continues_the_uninterrupted_stream(start_step):
    images = numbered(11, shape=(3, 4, 3))
    options = {"batch_size": 4, "seed": 5, "flip": True, "labels": True}
    whole = list(training_batches(images, **options).take(9).as_numpy_iterator())
    resumed = list(training_batches(images, **options, start_step=start_step).take(9 - start_step).as_numpy_iterator())
    for (x, label), (resumed_x, resumed_label) in zip(whole[start_step:], resumed, strict=True):
        np.testing.assert_array_equal(x, resumed_x)
        np.testing.assert_array_equal(label, resumed_label)


def test_resuming_reads_nothing_before_its_step():
    read = []

    def fetch(indices):
        read.extend(indices)
        return np.zeros((len(indices), 1, 1, 1), np.uint8)

    images = data.Images(fetch, 1000, (1, 1, 1))
    next(iter(training_batches(images, 1, seed=0, start_step=10**9 + 900)))
    assert len(read) < 100


def test_flips_mirror_about_half_of_the_images_anew_in_each_epoch():
    images = numbered(100, shape=(1, 2, 1))
    epochs = [x.numpy() for x in training_batches(images, 100, seed=0, flip=True).take(2)]
    mirrored = []
    for x in epochs:
        pixels = to_uint8(x).numpy()[:, 0, :, 0]
        assert sorted(pixels.max(axis=1)) == list(range(100)) and not pixels.min(axis=1).any()
        mirrored.append({int(row[1]) for row in pixels if row[1]})
    assert all(30 < len(flipped) < 70 for flipped in mirrored) and mirrored[0] != mirrored[1]


def test_flips_differ_from_step_to_step():
    steps = training_batches(data._in_memory(np.array([[[[0], [255]]]], np.uint8)), 1, seed=0, flip=True).take(40)
    assert 8 < sum(float(x[0, 0, 0, 0]) == 1.0 for x in steps) < 32


def test_batches_are_static_endless_and_in_the_unit_range():
    dataset = training_batches(numbered(5), 2, seed=0, labels=True)
    x, label = dataset.element_spec
    assert (x.shape, x.dtype, label.shape, label.dtype) == ((2, 2, 3, 1), tf.float32, (2,), tf.int64)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    for x, label in dataset.take(3):
        np.testing.assert_array_equal(to_uint8(x)[:, 0, 0, 0], label)
        assert float(tf.reduce_min(x)) == -1.0


def test_single_images_keep_the_order():
    dataset = numbered(130).single_images(labels=True)
    assert dataset.cardinality() == 130 and dataset.element_spec[0].shape == (2, 3, 1)
    pairs = [(int(image[0, 0, 0]), int(label)) for image, label in dataset]
    assert pairs == [(i, i) for i in range(130)]
    assert numbered(3).single_images().element_spec == tf.TensorSpec((2, 3, 1), tf.uint8)


def test_digits():
    digits = open_images("digits", 8, 1)
    assert (digits.num_images, digits.image_shape, digits.num_classes) == (1797, (8, 8, 1), 10)
    first, label = next(iter(digits.single_images(labels=True)))
    # The first row of the first digit is 0 0 5 13 9 1 0 0, of 16.
    assert first[0, :, 0].numpy().tolist() == [0, 0, 80, 207, 143, 16, 0, 0] and label == 0
    assert open_images("digits", [16, 12], 1).read(tf.range(2)).shape == (2, 16, 12, 1)


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


def flipped_and_labelled(images, batch_size, **options):
    return training_batches(images, batch_size, seed=5, flip=True, labels=True, **options).as_numpy_iterator()


@pytest.mark.parametrize("workers", [[2], [1, 1], [4], [2, 2], [1, 2, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("start_step", [0, 1, 7])
def test_replicas_share_the_batch_of_one(workers, start_step):
    # Two steps an epoch; the last three images of each are left out.
    images = numbered(19, shape=(3, 4, 3))
    whole = flipped_and_labelled(images, 8, start_step=start_step)
    shares = []
    for own, last in zip(workers, np.cumsum(workers)):
        options = {"start_step": start_step, "replicas": range(last - own, last), "num_replicas": sum(workers)}
        shares.append((own, flipped_and_labelled(images, 8, **options)))
    for _ in range(5):
        elements = [next(share) for own, share in shares for _ in range(own)]
        x, label = next(whole)
        assert {len(part) for part, _ in elements} == {8 // sum(workers)}
        np.testing.assert_array_equal(np.concatenate([part for part, _ in elements]), x)
        np.testing.assert_array_equal(np.concatenate([part for _, part in elements]), label)


def test_a_worker_reads_its_own_rows_alone():
    read = []

    def fetch(indices):
        read.append(tuple(indices.tolist()))
        return np.zeros((len(indices), 1, 1, 1), np.uint8)

    options = {"batch_size": 4, "seed": 5, "replicas": range(1, 3), "num_replicas": 4}
    list(training_batches(data.Images(fetch, 200, (1, 1, 1)), **options).take(20))
    # Some more may have been read ahead.
    order = np.array(indices_of(training_batches(numbered(200), 4, seed=5), 50))
    assert 20 <= len(read) <= 100 and set(read) <= {(row,) for row in order[:, 1:3].ravel()}


def test_a_batch_that_replicas_cannot_share():
    with pytest.raises(DataError, match="batch_size: got 5, expected a multiple of 2, the number of replicas"):
        training_batches(numbered(9), 5, seed=0, num_replicas=2)


def test_pixels_are_bytes_until_the_last_map():
    dataset = training_batches(numbered(9), 4, seed=0, flip=True)
    assert dataset.element_spec.dtype == tf.float32
    (before,) = dataset._inputs()
    assert "Prefetch" in type(before).__name__
    while inputs := before._inputs():
        assert all(spec.dtype.is_integer for spec in tf.nest.flatten(before.element_spec))
        before = inputs[0]


@pytest.mark.parametrize("limit, expected", [(1, [0]), (3, [0, 43, 86]), (130, range(130)), (999, range(130))])
def test_some_single_images_are_evenly_spaced(limit, expected):
    read, source = [], numbered(130)

    def fetch(indices):
        read.extend(indices)
        return source.read(tf.constant(indices)).numpy()

    images = data.Images(fetch, 130, source.image_shape, source.labels)
    dataset = images.single_images(labels=True, limit=limit)
    assert dataset.cardinality() == len(expected)
    assert [(int(x[0, 0, 0]), int(label)) for x, label in dataset] == [(i, i) for i in expected]
    assert sorted(read) == list(expected)


def test_no_single_images_at_all():
    with pytest.raises(DataError, match="limit: got 0, expected an integer >= 1 or None"):
        numbered(3).single_images(limit=0)


def test_throughput_is_images_over_seconds(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(data.time, "monotonic", lambda: clock[0])

    def elements(count):
        for i in range(count):
            # The first takes long, for everything has to start.
            clock[0] += 0.25 if i else 50.0
            given.append(i)
            yield i

    given = []
    assert data.measure_throughput(elements(100), images_per_element=10, seconds=1.0) == 40.0
    assert given == [0, 1, 2, 3, 4]
    assert data.measure_throughput(elements(3), images_per_element=10, seconds=1.0) == 40.0
    with pytest.raises(DataError, match="dataset: got one with fewer than 2 elements"):
        data.measure_throughput(elements(1), images_per_element=10)


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_larger_than_the_data(batch_size):
    with pytest.raises(DataError, match=f"batch_size: got {batch_size}, expected 1 to 5"):
        training_batches(numbered(5), batch_size, seed=0)


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
