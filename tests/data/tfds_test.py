import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import downloader

from tests.support.images import all_of
from tests.support.picture_folders import encoded
from tf_blurdiff.data import tfds as tfds_images
from tf_blurdiff.data.batches import training_batches
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.sources import open_images
from tf_blurdiff.errors import UserError


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


@pytest.mark.parametrize("cached", [False, True])
def test_tfds_with_labels(tfds_dir, tmp_path, cached):
    options = {"name": "tiny_photos/labelled", "root": tfds_dir, "cache_dir": tmp_path}
    for _ in range(2):
        images = open_images("tfds", [3, 4], 3, **options, cache_gb=0 if cached else 1e-3)
        assert (images.num_images, images.image_shape, images.num_classes) == (5, (3, 4, 3), 7)
        pairs = sorted(zip(all_of(images)[:, 0, 0, 0].tolist(), images.labels.tolist()))
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


def of_files(folder, *contents, channels=3, labelled=False):
    """A data set whose pictures are stored as these files, which TFDS does not look into."""
    features = {"image": tfds.features.Image(shape=(None, None, channels))}
    if labelled:
        features["label"] = tfds.features.ClassLabel(names=["boots", "shoes"])

    class Files(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "files"

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, content in enumerate(contents):
                yield number, {"image": io.BytesIO(content)} | ({"label": number % 2} if labelled else {})

    builder = Files(data_dir=str(folder))
    builder.download_and_prepare()
    return builder


def read_files(folder, monkeypatch, *contents, **options):
    builder = of_files(folder, *contents, **options)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    return open_images("tfds", 8, 3, name="files", root=folder)


def test_files_of_other_forms_among_jpegs_are_read(tmp_path, monkeypatch):
    image = Image.new("RGB", (24, 20), (60, 90, 30))
    clear = Image.new("RGBA", (24, 20), (60, 90, 30, 0))
    kinds = [(image, "JPEG"), (image, "WEBP"), (image.convert("CMYK"), "JPEG"), (clear, "PNG"), (image, "TIFF")]
    files = [encoded(*kind) for kind in kinds]
    values = sorted(all_of(read_files(tmp_path, monkeypatch, *files))[:, 0, 0].tolist())
    np.testing.assert_allclose(values, [[60, 90, 30]] * 4 + [[255, 255, 255]], atol=4)


def test_jpegs_are_decoded_as_by_tfds(tmp_path, monkeypatch, rng):
    files = [encoded(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)), "JPEG") for _ in range(5)]
    ours = all_of(read_files(tmp_path, monkeypatch, *files))
    theirs = [tf.io.decode_image(file).numpy() for file in files]
    assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)


def test_a_damaged_picture_is_named(tmp_path, monkeypatch):
    whole = encoded(Image.new("RGB", (24, 20)), "PNG")
    with pytest.raises(DataError, match=r"^name: picture \d of files/1.0.0 cannot be read \(.*truncated.*\)$"):
        read_files(tmp_path, monkeypatch, whole, whole[:-30])


def test_four_channels_are_three_over_a_background(tmp_path, monkeypatch):
    clear = encoded(Image.new("RGBA", (24, 20), (60, 90, 30, 0)), "PNG")
    images = read_files(tmp_path, monkeypatch, clear, channels=4)
    assert all_of(images)[0, 0, 0].tolist() == [255, 255, 255]


def test_classes_have_tfdss_names(tmp_path, monkeypatch):
    image = encoded(Image.new("RGB", (8, 8)), "PNG")
    images = read_files(tmp_path, monkeypatch, image, image, labelled=True)
    assert images.class_names == ("boots", "shoes") and images.num_classes == 2


def test_the_papers_name_of_lsun_churches_is_known():
    assert tfds_images.find_builder("lsun/church", None)[0].info.full_name.startswith("lsun/church_outdoor/")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "name: got None, expected the name"),
        ({"name": "fashion_mnits"}, "name: got 'fashion_mnits', .*expected .*fashion_mnist"),
        ({"name": "a bad %name"}, "name: got 'a bad %name', .*expected"),
        ({"name": "lsun/curch"}, "name: got 'lsun/curch', .*expected 'lsun' with .*church_outdoor"),
        ({"name": "tiny_photos/text"}, "name: got 'tiny_photos/text', expected .*8-bit images"),
        ({"name": "tiny_photos/broken"}, r"could not be prepared \(no route to host\); expected"),
        ({"name": "tiny_photos/plain", "split": "tset"}, "split: got 'tset', expected one of train"),
        (
            {"name": "tiny_photos/plain", "split": "train[:0]"},
            "split: got .train\\[:0\\].*expected one of train",
        ),
    ],
)
def test_wrong_arguments(arguments, message, tfds_dir):
    with pytest.raises(DataError, match=message) as caught:
        open_images(**{"source": "tfds", "image_size": 8, "channels": 1, "root": tfds_dir, **arguments})
    assert "\n" not in str(caught.value)


def test_a_missing_network_is_noticed_in_seconds(tfds_dir, monkeypatch):
    # TFDS waits 0.2 * 2^k seconds before its k-th new try.
    monkeypatch.setattr(downloader, "MAX_RETRIES", downloader.MAX_RETRIES)
    with pytest.raises(DataError, match="could not be prepared"):
        open_images("tfds", 8, 3, name="tiny_photos/broken", root=tfds_dir)
    assert sum(0.2 * 2**k for k in range(1, downloader.MAX_RETRIES)) < 10


def test_what_could_not_be_decoded_leaves_nothing(tfds_dir, tmp_path, monkeypatch):
    def decode_all(self, pixels, labels):
        raise DataError("name: picture 3 cannot be read")

    monkeypatch.setattr(tfds_images._Examples, "decode_all", decode_all)
    with pytest.raises(DataError, match="picture 3 cannot be read"):
        open_images("tfds", 4, 3, name="tiny_photos/plain", root=tfds_dir, cache_dir=tmp_path, cache_gb=0)
    assert not list(tmp_path.iterdir())


def test_a_cache_is_of_the_data_s_files_not_of_their_name_alone(tfds_dir, tmp_path, monkeypatch):
    own = {"name": "tiny_photos/plain", "cache_dir": tmp_path / "cache", "cache_gb": 0}
    before = all_of(open_images("tfds", 4, 3, root=tfds_dir, **own))

    def other(self):
        yield from ((i, {"image": np.full((6, 9, 3), 200 + i, np.uint8)}) for i in range(5))

    monkeypatch.setattr(TinyPhotos, "_generate_examples", other)
    after = all_of(open_images("tfds", 4, 3, root=tmp_path / "tfds", **own))
    assert before.shape == after.shape and sorted(after[:, 0, 0, 0]) == [200, 201, 202, 203, 204]


def test_what_a_killed_process_had_decoded_is_removed(tfds_dir, tmp_path):
    options = {"name": "tiny_photos/plain", "split": "train[:80%]", "root": tfds_dir, "cache_dir": tmp_path}
    open_images("tfds", 4, 3, **options, cache_gb=0)
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)
    growing, left = (folder.with_name(f"{folder.name}.{number}.partial") for number in range(2))
    for path in (growing, left):
        path.mkdir()
        (path / "images.npy").write_bytes(b"part")
    for path in (left / "images.npy", left):
        os.utime(path, (0, 0))
    os.utime(growing, (0, 0))
    open_images("tfds", 4, 3, **options, cache_gb=0)
    assert sorted(tmp_path.iterdir()) == [folder, growing]


def test_a_cache_that_cannot_be_written_is_one_line(tfds_dir, tmp_path):
    (tmp_path / "file").touch()
    more = {"name": "tiny_photos/plain", "root": tfds_dir, "cache_dir": tmp_path / "file" / "cache"}
    with pytest.raises(UserError, match=r"^cache_dir .*/file/cache cannot be written: Not a directory$"):
        open_images("tfds", 4, 3, **more, cache_gb=0)


def test_a_full_disk_is_noticed_before_writing(tfds_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="has 10 bytes free, expected"):
        open_images("tfds", 4, 3, name="tiny_photos/plain", root=tfds_dir, cache_dir=tmp_path, cache_gb=0)
