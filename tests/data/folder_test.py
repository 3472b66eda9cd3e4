import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.images import all_of
from tf_blurdiff.data import folder as image_folder
from tf_blurdiff.data import listing
from tf_blurdiff.data.batches import training_batches
from tf_blurdiff.data.folder import Decoder
from tf_blurdiff.data.listing import FileNames
from tf_blurdiff.data.pictures import DataError, read_image
from tf_blurdiff.data.sources import open_images

NOT_IMAGES = {"empty": b"", "text": b"nothing like an image"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for i, name in enumerate(["b/1.png", "b/2.JPG", "a.bmp", "c.gif", "d.jpeg"]):
        Image.new("RGB", (12, 8), (50 * i, 50 * i, 50 * i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".thumb.png").write_text("not an image either")
    (tmp_path / "b" / ".trash" / "c").mkdir(parents=True)
    (tmp_path / "b" / ".trash" / "c" / "7.png").write_text("thrown away")
    (tmp_path / "b" / "around").symlink_to(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_folder_is_sorted_recursive_and_cut_to_the_centre(folder):
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = np.arange(8, dtype=np.uint8)[:, None, None] * 20
    Image.fromarray(wide).save(folder / "b" / "3.png")
    images = open_images("image_folder", 4, 3, root=folder)
    assert (images.num_images, images.image_shape, images.num_classes) == (6, (4, 4, 3), None)
    pixels = all_of(images)
    np.testing.assert_allclose(pixels[[0, 1, 2, 4, 5], 0, 0, 0], [100, 0, 50, 150, 200], atol=2)
    # Shrinking takes the mean of two rows of the middle 8 columns.
    np.testing.assert_array_equal(pixels[3], np.broadcast_to(np.array([10, 50, 90, 130])[:, None, None], (4, 4, 3)))


@pytest.mark.parametrize("cache_gb", [0, 1e-3])
def test_folder_reads_the_same_kept_or_not(folder, cache_gb):
    images = open_images("image_folder", [4, 8], 1, root=str(folder), cache_gb=cache_gb)
    batches = training_batches(images, 5, seed=0).take(2).as_numpy_iterator()
    values = [np.sort(x[:, 0, 0, 0].astype(int)) for x in batches]
    np.testing.assert_allclose(values, [[0, 50, 100, 150, 200]] * 2, atol=2)


def test_files_of_other_kinds_become_8_bit_images_of_the_wanted_channels(tmp_path):
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "1.png")
    Image.new("RGBA", (4, 4), (10, 10, 10, 99)).save(tmp_path / "2.png")
    Image.new("L", (2, 2), 77).save(tmp_path / "3.png")
    for channels in (1, 3):
        pixels = open_images("image_folder", 4, channels, root=tmp_path).read(tf.range(3)).numpy()
        assert [np.unique(picture).tolist() for picture in pixels] == [[128], [160], [77]]


def test_a_camera_s_rotation_is_undone(tmp_path):
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned clockwise: its left is the top.
    Image.fromarray(picture).save(tmp_path / "1.png", exif=exif)
    pixels = open_images("image_folder", [8, 4], 3, root=tmp_path).read(tf.range(1))[0].numpy()
    assert pixels[:4].min() == 255 and pixels[4:].max() == 0


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"holds no image; expected files ending in \.bmp"):
        open_images("image_folder", 8, 3, root=tmp_path)


@pytest.fixture
def damaged(tmp_path):
    """Ten grey pictures, picture i with the value 10 i; 3, 4 and the last are damaged."""
    for i in range(10):
        Image.new("L", (6, 6), 10 * i).save(tmp_path / f"{i}.png")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    Image.fromarray(noise).save(tmp_path / "4.png")
    whole = (tmp_path / "4.png").read_bytes()
    for i, content in ((3, b""), (4, whole[: len(whole) // 2]), (9, b"nothing like an image")):
        (tmp_path / f"{i}.png").write_bytes(content)
    return tmp_path


def open_grey(folder, **options):
    return open_images("image_folder", 6, 1, root=folder, **options)


@pytest.mark.parametrize("cache_gb", [0, 1e-3])
def test_damaged_files_are_named_once_and_the_next_is_used(damaged, cache_gb, capsys):
    images = open_grey(damaged, cache_gb=cache_gb)
    assert images.num_images == 10 and not capsys.readouterr().err
    for _ in range(2):
        values = all_of(images)[:, 0, 0, 0].tolist()
        assert values == [0, 10, 20, 50, 50, 50, 60, 70, 80, 0]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for i, reason in ((3, "not an image"), (4, "truncated"), (9, "not an image")):
        assert sum(f"{damaged / str(i)}.png' (" in line and reason in line for line in lines) == 1


def test_a_damaged_file_is_replaced_by_one_of_its_class(tmp_path):
    for grey, name in enumerate(["a/0", "a/1", "b/2", "c/3"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (6, 6), 10 * grey).save(path)
    for name in ("a/1", "c/3"):
        (tmp_path / f"{name}.png").write_bytes(b"not a picture")
    names = FileNames(tmp_path, "folders")
    decoder = Decoder(names, (6, 6, 1), keep=False, max_corrupt=2, labels=names.labels)
    assert decoder(np.arange(3))[:, 0, 0, 0].tolist() == [0, 0, 20]
    message = r"^data\.root: none of a sub-folder's 1 image files can be read: cannot read the image '.*c/3\.png' \("
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            decoder(np.array([3]))


def test_damaged_files_are_replaced_alike_after_resuming(damaged):
    def values(start_step, steps):
        # A new process knows nothing of what an earlier one found.
        batches = training_batches(open_grey(damaged), 4, seed=5, start_step=start_step).take(steps)
        return [x[:, 0, 0, 0].numpy().tolist() for x in batches]

    whole = values(0, 7)
    assert whole == values(0, 7) and whole[3:] == values(3, 4)
    assert {value for batch in whole for value in batch} == {0, 10, 20, 50, 60, 70, 80}


def test_a_file_is_named_once_by_threads_that_meet_it_together(damaged, monkeypatch, capsys):
    together = threading.Barrier(8)

    def read_with_others(path, *more):
        if path.endswith("4.png"):
            together.wait(60)
        return read_image(path, *more)

    monkeypatch.setattr(image_folder, "read_image", read_with_others)
    decoder = Decoder(FileNames(damaged), (6, 6, 1), keep=False, max_corrupt=1)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: int(decoder(np.array([4]))[0, 0, 0, 0]), range(8)))
    assert values == [50] * 8
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_damaged_file_is_tried_once(damaged, monkeypatch):
    tried = []
    monkeypatch.setattr(
        image_folder, "read_image", lambda path, *more: tried.append(path[-5:]) or read_image(path, *more)
    )
    images = open_grey(damaged, cache_gb=0)
    for _ in range(3):
        all_of(images)
    assert [tried.count(f"{i}.png") for i in (3, 4, 9)] == [1, 1, 1] and tried.count("7.png") == 3


@pytest.mark.parametrize("max_corrupt", [0, 1, 2])
def test_more_damaged_files_than_allowed(damaged, max_corrupt):
    decoder = Decoder(FileNames(damaged), (6, 6, 1), keep=True, max_corrupt=max_corrupt)
    last = [3, 4, 9][max_corrupt]
    message = f"data.max_corrupt: got {max_corrupt}, expected {max_corrupt + 1} or more.*{last}.png"
    for _ in range(2):
        with pytest.raises(DataError, match=message) as caught:
            decoder(np.arange(10))
        assert "\n" not in str(caught.value)
    images = open_grey(damaged, max_corrupt=max_corrupt)
    with pytest.raises(DataError, match=r"^data\.max_corrupt: got"), images.plain_errors():
        list(images.batches(4))


@pytest.mark.parametrize("content", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_a_folder_where_no_file_can_be_read(tmp_path, content):
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    images = open_grey(tmp_path)
    with pytest.raises(DataError, match=r"^data\.root: none of its 5 image files can be read"), images.plain_errors():
        list(training_batches(images, 2, seed=0).take(1))


@pytest.mark.parametrize("keep", [False, True])
def test_a_kept_file_is_decoded_once(folder, monkeypatch, keep):
    decoded = []
    monkeypatch.setattr(image_folder, "read_image", lambda path, *more: decoded.append(path) or read_image(path, *more))
    # Five pictures of 4x8x3 bytes.
    images = open_images("image_folder", [4, 8], 3, root=folder, cache_gb=(481 if keep else 479) / 1e9)
    for _ in range(3):
        all_of(images)
    assert len(set(decoded)) == 5 and len(decoded) == (5 if keep else 15)


def test_names_take_little_memory(tmp_path):
    for i in range(3000):
        (tmp_path / f"{i:08}.png").touch()
    tracemalloc.start()
    names = FileNames(tmp_path)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 12 bytes of name and 8 of place; a string in a list would take 8 and 60 or more.
    assert len(names) == 3000 and taken < 3000 * 30
    assert [names[i] for i in (0, 1234, 2999)] == [str(tmp_path / f"{i:08}.png") for i in (0, 1234, 2999)]


def test_names_of_any_bytes(tmp_path):
    Image.new("L", (6, 6), 70).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", bytes(tmp_path) + b"/\xff\xfe.png")
    Image.new("L", (6, 6), 50).save(tmp_path / "\u00e9\n.png")
    assert all_of(open_grey(tmp_path))[:, 0, 0, 0].tolist() == [50, 70]


def test_a_folder_that_cannot_be_listed(folder, monkeypatch):
    def scandir(path, scandir=listing.os.scandir):
        if path.endswith(b"/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", scandir)
    with pytest.raises(DataError, match=r"root: got '.*', where '.*/b' cannot be listed \(Permission denied\)"):
        FileNames(folder)
