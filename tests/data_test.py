import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tf_blurdiff import data
from tf_blurdiff.data import DataError, open_images, to_uint8, to_unit_range, training_batches


def numbered(count, shape=(2, 3, 1), labels=True):
    """Images whose top left pixel is their own index."""
    pixels = np.zeros((count, *shape), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return data._in_memory(pixels, np.arange(count) if labels else None, count if labels else None)


def indices_of(dataset, steps):
    return [to_uint8(x)[:, 0, 0, 0].numpy().tolist() for x in dataset.take(steps)]


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Five pictures of different sizes; picture i has the value 40 i."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, version="1.0.0") for name in ("labelled", "plain", "broken", "text")
    ]

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3))}
        if self.builder_config.name == "labelled":
            features["label"] = tfds.features.ClassLabel(num_classes=7)
        if self.builder_config.name == "text":
            features = {"text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        if self.builder_config.name == "broken":
            raise ConnectionError("no route to host\nmore than one line of it")
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            example = {"image": np.full((6 + i, 9, 3), 40 * i, np.uint8)}
            yield i, example if self.builder_config.name == "plain" else {**example, "label": i + 2}


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for i, name in enumerate(["b/1.png", "b/2.JPG", "a.bmp", "c.gif", "d.jpeg"]):
        Image.new("RGB", (12, 8), (50 * i, 50 * i, 50 * i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".thumb.png").write_text("not an image either")
    return tmp_path


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


def test_folder_is_sorted_recursive_and_cut_to_the_centre(folder):
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = np.arange(8, dtype=np.uint8)[:, None, None] * 20
    Image.fromarray(wide).save(folder / "b" / "3.png")
    images = open_images("image_folder", 4, 3, root=folder)
    assert (images.num_images, images.image_shape, images.num_classes) == (6, (4, 4, 3), None)
    pixels = np.stack(list(images.single_images().as_numpy_iterator()))
    np.testing.assert_allclose(pixels[[0, 1, 2, 4, 5], 0, 0, 0], [100, 0, 50, 150, 200], atol=2)
    # Shrinking takes the mean of two rows of the middle 8 columns.
    np.testing.assert_array_equal(pixels[3], np.broadcast_to(np.array([10, 50, 90, 130])[:, None, None], (4, 4, 3)))


@pytest.mark.parametrize("memory_limit", [0, 10**6])
def test_folder_reads_the_same_kept_or_not(folder, memory_limit):
    images = open_images("image_folder", [4, 8], 1, root=str(folder), memory_limit=memory_limit)
    batches = training_batches(images, 5, seed=0).take(2).as_numpy_iterator()
    values = [np.sort(np.round(127.5 * (x[:, 0, 0, 0] + 1))) for x in batches]
    np.testing.assert_allclose(values, [[0, 50, 100, 150, 200]] * 2, atol=2)


def test_files_of_other_kinds_become_8_bit_images_of_the_wanted_channels(tmp_path):
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "1.png")
    Image.new("RGBA", (4, 4), (10, 10, 10, 99)).save(tmp_path / "2.png")
    Image.new("L", (2, 2), 77).save(tmp_path / "3.png")
    for channels in (1, 3):
        pixels = open_images("image_folder", 4, channels, root=tmp_path).read(tf.range(3)).numpy()
        assert [np.unique(picture).tolist() for picture in pixels] == [[128], [10], [77]]


def test_a_camera_s_rotation_is_undone(tmp_path):
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned clockwise: its left is the top.
    Image.fromarray(picture).save(tmp_path / "1.png", exif=exif)
    pixels = open_images("image_folder", [8, 4], 3, root=tmp_path).read(tf.range(1))[0].numpy()
    assert pixels[:4].min() == 255 and pixels[4:].max() == 0


def test_a_corrupt_file_is_named(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "b" / "2.JPG")
    whole = (folder / "b" / "2.JPG").read_bytes()
    (folder / "b" / "2.JPG").write_bytes(whole[: len(whole) // 2])
    images = open_images("image_folder", 8, 3, root=folder)
    with pytest.raises(tf.errors.OpError, match=r"cannot read the image '.*b/2\.JPG'"):
        list(training_batches(images, 5, seed=0).take(1))
    (folder / "b" / "2.JPG").write_bytes(b"nothing like an image")
    with pytest.raises(DataError, match=r"cannot read the image '.*b/2\.JPG'.*expected"):
        open_images("image_folder", 8, 3, root=folder)


@pytest.mark.parametrize("cached", [False, True])
def test_tfds_with_labels(tfds_dir, tmp_path, cached):
    options = {"name": "tiny_photos/labelled", "root": tfds_dir, "cache_dir": tmp_path}
    for _ in range(2):
        images = open_images("tfds", [3, 4], 3, **options, memory_limit=0 if cached else 10**6)
        assert (images.num_images, images.image_shape, images.num_classes) == (5, (3, 4, 3), 7)
        pairs = sorted((int(x[0, 0, 0]), int(label)) for x, label in images.single_images(labels=True))
        assert pairs == [(40 * i, i + 2) for i in range(5)]
    assert len(list(tmp_path.iterdir())) == cached
    assert open_images("tfds", 3, 1, split="train[:40%]", **options).num_images == 2


def test_tfds_without_labels(tfds_dir):
    images = open_images("tfds", 4, 3, name="tiny_photos/plain", root=tfds_dir)
    assert (images.num_images, images.num_classes, images.labels) == (5, None, None)
    with pytest.raises(DataError, match="labels: got True, expected False"):
        training_batches(images, 2, seed=0, labels=True)


def test_tfds_of_one_channel():
    with tfds.testing.mock_data(num_examples=6):
        images = open_images("tfds", 28, 1, name="fashion_mnist")
    assert (images.num_images, images.image_shape, images.num_classes) == (6, (28, 28, 1), 10)


def test_the_papers_name_of_lsun_churches_is_known():
    assert data._tfds_builder("lsun/church", None)[0].info.full_name.startswith("lsun/church_outdoor/")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"source": "imagenet"}, "source: got 'imagenet', expected one of digits, image_folder, tfds"),
        ({"source": "digits", "channels": 2}, "channels: got 2, expected 1 or 3"),
        ({"source": "digits", "channels": 3}, "channels: got 3, expected 1"),
        ({"source": "digits", "image_size": 0}, "image_size: got 0, expected"),
        ({"source": "digits", "image_size": [8]}, r"image_size: got \[8\], expected"),
        ({"source": "digits", "split": "test"}, "split: got 'test', expected 'train'"),
        ({"source": "image_folder"}, "root: got 'None', which is not a folder; expected a folder"),
        ({"source": "image_folder", "root": "/no/such"}, "root: got '/no/such', which is not a folder"),
        ({"source": "tfds"}, "name: got None, expected the name"),
        ({"source": "tfds", "name": "fashion_mnits"}, "name: got 'fashion_mnits', .*expected .*fashion_mnist"),
        ({"source": "tfds", "name": "a bad %name"}, "name: got 'a bad %name', .*expected"),
        ({"source": "tfds", "name": "lsun/curch"}, "name: got 'lsun/curch', .*expected 'lsun' with .*church_outdoor"),
        ({"source": "tfds", "name": "tiny_photos/text"}, "name: got 'tiny_photos/text', expected .*8-bit images"),
        ({"source": "tfds", "name": "tiny_photos/broken"}, r"could not be prepared \(no route to host\); expected"),
        ({"source": "tfds", "name": "tiny_photos/plain", "split": "tset"}, "split: got 'tset', expected one of train"),
        (
            {"source": "tfds", "name": "tiny_photos/plain", "split": "train[:0]"},
            "split: got .train\\[:0\\].*expected one of train",
        ),
    ],
)
def test_wrong_arguments(arguments, message, tfds_dir):
    root = {"root": tfds_dir} if arguments["source"] == "tfds" else {}
    with pytest.raises(DataError, match=message) as caught:
        open_images(**{"image_size": 8, "channels": 1, **root, **arguments})
    assert "\n" not in str(caught.value)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"holds no image; expected files ending in \.bmp"):
        open_images("image_folder", 8, 3, root=tmp_path)


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_larger_than_the_data(batch_size):
    with pytest.raises(DataError, match=f"batch_size: got {batch_size}, expected 1 to 5"):
        training_batches(numbered(5), batch_size, seed=0)


def test_a_full_disk_is_noticed_before_writing(tfds_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="has 10 bytes free, expected"):
        open_images("tfds", 4, 3, name="tiny_photos/plain", root=tfds_dir, cache_dir=tmp_path, memory_limit=0)
