import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.images import numbered
from tf_blurdiff.data import batches
from tf_blurdiff.data.batches import training_batches
from tf_blurdiff.data.kept import KeptPixels, empty_pixels
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.sources import Images, in_memory, open_images
from tf_blurdiff.diffusion.stateless_random import fold


def indices_of(dataset, steps):
    return [x[:, 0, 0, 0].numpy().tolist() for x in dataset.take(steps)]


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


def test_resuming_continues_the_uninterrupted_stream():
    images = numbered(11, shape=(3, 4, 3))
    options = {"batch_size": 4, "seed": 5, "flip": True, "labels": True}
    whole = list(training_batches(images, **options).take(9).as_numpy_iterator())
    for start_step in (1, 2, 7):  # Inside an epoch, at its end, and inside the fourth.
        resumed = training_batches(images, **options, start_step=start_step).take(9 - start_step).as_numpy_iterator()
        for (x, label), (resumed_x, resumed_label) in zip(whole[start_step:], resumed, strict=True):
            np.testing.assert_array_equal(x, resumed_x)
            np.testing.assert_array_equal(label, resumed_label)


def test_resuming_reads_nothing_before_its_step():
    read = []

    def fetch(indices):
        read.extend(indices)
        return np.zeros((len(indices), 1, 1, 1), np.uint8)

    images = Images(fetch, 1000, (1, 1, 1))
    next(iter(training_batches(images, 1, seed=0, start_step=10**9 + 900)))
    assert len(read) < 100


def test_flips_mirror_about_half_of_the_images_anew_in_each_epoch():
    images = numbered(100, shape=(1, 2, 1))
    epochs = [x.numpy() for x in training_batches(images, 100, seed=0, flip=True).take(2)]
    mirrored = []
    for x in epochs:
        pixels = x[:, 0, :, 0]
        assert sorted(pixels.max(axis=1)) == list(range(100)) and not pixels.min(axis=1).any()
        mirrored.append({int(row[1]) for row in pixels if row[1]})
    assert all(30 < len(flipped) < 70 for flipped in mirrored) and mirrored[0] != mirrored[1]


def test_flips_differ_from_step_to_step():
    steps = training_batches(in_memory(np.array([[[[0], [255]]]], np.uint8)), 1, seed=0, flip=True).take(40)
    assert 8 < sum(int(x[0, 0, 0, 0]) == 255 for x in steps) < 32


def test_batches_are_static_endless_and_of_bytes():
    dataset = training_batches(numbered(5), 2, seed=0, labels=True)
    x, label = dataset.element_spec
    assert (x.shape, x.dtype, label.shape, label.dtype) == ((2, 2, 3, 1), tf.uint8, (2,), tf.int64)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    for x, label in dataset.take(3):
        np.testing.assert_array_equal(x[:, 0, 0, 0], label)


def flipped_and_labelled(images, batch_size, **options):
    return training_batches(images, batch_size, seed=5, flip=True, labels=True, **options).as_numpy_iterator()


@pytest.mark.parametrize("workers, start_step", [([2], 0), ([1, 1], 1), ([1, 2, 1], 7)])
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
    list(training_batches(Images(fetch, 200, (1, 1, 1)), **options).take(20))
    # Some more may have been read ahead.
    order = np.array(indices_of(training_batches(numbered(200), 4, seed=5), 50))
    assert 20 <= len(read) <= 100 and set(read) <= {(row,) for row in order[:, 1:3].ravel()}


def test_a_batch_that_replicas_cannot_share():
    with pytest.raises(DataError, match="batch_size: got 5, expected a multiple of 2, the number of replicas"):
        training_batches(numbered(9), 5, seed=0, num_replicas=2)


def expected(pixels, batch_size, seed, step):
    """The batch of a step, said in the plainest way."""
    per_epoch = len(pixels) // batch_size
    shuffle_seed = fold([seed, 0], step // per_epoch)
    order = tf.random.experimental.stateless_shuffle(tf.range(len(pixels)), shuffle_seed, alg="philox").numpy()
    x = pixels[order.reshape(-1)[step % per_epoch * batch_size :][:batch_size]]
    drawn = tf.random.stateless_uniform((1, batch_size), fold([seed, 1], step), alg="philox")[0].numpy()
    return np.where((drawn < 0.5)[:, None, None, None], x[:, :, ::-1], x)


def noise(count, shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


def folder_of(pixels, folder):
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    return folder


SOURCES = {
    "in memory": lambda pixels, folder: in_memory(pixels),
    "kept folder": lambda pixels, folder: open_images("image_folder", [5, 7], 3, root=folder_of(pixels, folder)),
    "folder": lambda pixels, folder: open_images("image_folder", [5, 7], 3, root=folder_of(pixels, folder), cache_gb=0),
}


@pytest.mark.parametrize("most_shares", [1, 3, 64])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_and_chunk_gives_the_same_batches(source, most_shares, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_MOST_SHARES", most_shares)
    pixels = noise(30, (5, 7, 3))
    dataset = training_batches(SOURCES[source](pixels, tmp_path), 4, seed=9, flip=True, start_step=3)
    # Four epochs of seven steps.
    for step, x in enumerate(dataset.take(25).as_numpy_iterator(), 3):
        np.testing.assert_array_equal(x, expected(pixels, 4, 9, step))


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 5, 1), (3, 5, 3), (2, 8, 2)])
def test_forms_of_images_are_mirrored_alike(shape):
    pixels = noise(20, shape)
    dataset = training_batches(in_memory(pixels), 8, seed=2, flip=True)
    for step, x in enumerate(dataset.take(5).as_numpy_iterator()):
        np.testing.assert_array_equal(x, expected(pixels, 8, 2, step))


# Of 40 steps: pixels and labels.
DIGESTS = {(0, False): "bce1e00fd41f599a", (0, True): "a2cd1669e8f8f07b", (123456789, True): "855702f4b6d9a25c"}


@pytest.mark.parametrize("seed, flip", DIGESTS)
def test_the_batches_of_digits_are_those_of_earlier_versions(seed, flip):
    digits = open_images("digits", image_size=8, channels=1)
    dataset = training_batches(digits, 64, seed=seed, flip=flip, labels=True, start_step=20)
    content = b"".join(part.tobytes() for element in dataset.take(40).as_numpy_iterator() for part in element)
    assert hashlib.sha256(content).hexdigest()[:16] == DIGESTS[seed, flip]


def sizes_of_reads(kept, steps):
    """How many images each call of fetch was asked for, in batches of 4 of 40 images."""
    sizes = []

    def fetch(indices):
        sizes.append(len(indices))
        return kept.pixels[indices]

    images = Images(fetch, 40, (1, 1, 1), kept=kept)
    list(training_batches(images, 4, seed=0).take(steps))
    return sizes


def test_pictures_that_are_not_in_memory_are_read_batch_by_batch():
    assert set(sizes_of_reads(KeptPixels(empty_pixels((40, 1, 1, 1)), complete=False), 10)) == {4}


def test_pictures_that_are_mostly_in_memory_are_read_many_batches_at_once():
    kept = KeptPixels(empty_pixels((40, 1, 1, 1)), complete=False)
    for index in range(39):
        kept.put(index, np.zeros((1, 1, 1)))
    assert set(sizes_of_reads(kept, 10)) == {40}


def test_pictures_that_are_in_memory_are_not_asked_for():
    assert sizes_of_reads(KeptPixels(np.zeros((40, 1, 1, 1), np.uint8)), 10) == []


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_larger_than_the_data(batch_size):
    with pytest.raises(DataError, match=f"batch_size: got {batch_size}, expected 1 to 5"):
        training_batches(numbered(5), batch_size, seed=0)


def with_margin(count=12, margin=(2, 4)):
    """Images of 3x2 pixels, cut from 5x6 ones, whose pixels say where they are: 10 times the row, and the column."""
    rows, columns = np.mgrid[: 3 + margin[0], : 2 + margin[1]].astype(np.uint8)
    pixels = np.broadcast_to((10 * rows + columns)[None, ..., None], (count, *rows.shape, 1))
    return Images(lambda indices: pixels[indices], count, (3, 2, 1), margin=margin)


def test_without_crops_the_centres_are_read():
    image = with_margin().read(np.array([5]))[0, :, :, 0].numpy()
    assert image.tolist() == [[12, 13], [22, 23], [32, 33]]
    batch = next(iter(training_batches(with_margin(), 4, seed=0)))
    np.testing.assert_array_equal(batch[..., 0], [image] * 4)


def test_crops_come_from_every_place_and_are_whole():
    batches = training_batches(with_margin(), 12, seed=3, crop=True).take(50).as_numpy_iterator()
    corners = []
    for image in np.concatenate(list(batches))[..., 0].astype(int):
        np.testing.assert_array_equal(image - image[0, 0], [[0, 1], [10, 11], [20, 21]])
        corners.append(divmod(image[0, 0], 10))
    places, counts = np.unique(corners, axis=0, return_counts=True)
    # Of 600 at 3 times 5 places 40 are expected at each, with a standard deviation of 6.
    assert places.tolist() == [[row, column] for row in range(3) for column in range(5)]
    assert counts.min() > 15 and counts.max() < 70


def test_crops_depend_on_seed_step_and_row_alone():
    def crops(**options):
        dataset = training_batches(with_margin(13), 6, **{"seed": 3, "crop": True, "flip": True} | options)
        return [x.tolist() for x in dataset.take(8).as_numpy_iterator()]

    whole = crops()
    assert whole == crops() and whole[3:] == crops(start_step=3)[:5]
    assert whole != crops(seed=4) and len({str(x) for x in whole}) == 8
    first, second = (crops(replicas=range(number, number + 1), num_replicas=2) for number in (0, 1))
    assert [one + two for one, two in zip(first, second)] == whole


def test_pictures_are_read_an_eighth_larger_for_crops():
    images = open_images("digits", [8, 20], 1, crop=True)
    assert (images.image_shape, images.margin) == ((8, 20, 1), (1, 3))
    larger = open_images("digits", [9, 23], 1).read(np.array([7]))
    np.testing.assert_array_equal(images.read(np.array([7])), larger[:, 0:8, 1:21])
