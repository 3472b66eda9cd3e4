import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.images import all_of
from tf_blurdiff.data.folder import chosen_size
from tf_blurdiff.data.listing import FileNames
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.sources import open_images


def put(folder, *names, size=(6, 6), value=0):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, value + number).save(path)


def relative(names, folder):
    return [os.path.relpath(name, folder) for name in names]


def test_links_to_folders_are_followed_and_no_folder_twice(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(root, "b/1.png", "z.png")
    put(elsewhere, "2.png", "deep/3.png")
    (root / "a").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere)
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "self").symlink_to(root / "b" / "self")
    (elsewhere / "deep" / "around").symlink_to(root / "b")
    names = FileNames(root)
    assert relative(names, root) == ["b/1.png", "z.png", "a/2.png", "a/deep/3.png"]
    assert names.left_out == {"links to folders that are listed already": 3, "broken links": 1}
    assert all_of(open_images("image_folder", 6, 1, root=root)).shape == (4, 6, 6, 1)


def test_what_there_is_and_what_was_left_out_is_counted(tmp_path):
    put(tmp_path, "a.png", "b.PNG", "c/d.jpg", "c/.e.png")
    for name in ("notes.txt", "phone.HEIC", "README", "c/x.heic"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / ".git").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    names = FileNames(tmp_path)
    assert names.forms == {".png": 2, ".jpg": 1}
    assert names.left_out == {
        "hidden": 2, ".heic": 2, ".txt": 1, "without a suffix": 1, "broken links": 1, "neither files nor folders": 1,
    }  # fmt: skip
    assert names.summary().startswith(f"3 pictures in '{tmp_path}': .png (2), .jpg (1); left out: ")
    assert open_images("image_folder", 6, 1, root=tmp_path).summary == names.summary()


def test_many_kinds_are_named_in_a_line(tmp_path):
    put(tmp_path, "a.png")
    for number in range(40):
        (tmp_path / f"x.{number}").touch()
    assert FileNames(tmp_path).summary().endswith(", others (28)")


@pytest.fixture
def photos(tmp_path):
    put(tmp_path, "shoes/2.png", "shoes/old/1.png", "boots/3.png", "top.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "1.txt").write_text("no picture")
    return tmp_path


def test_sub_folders_are_classes_in_the_order_of_their_names(photos):
    images = open_images("image_folder", 6, 1, root=photos, labels="folders")
    assert (images.class_names, images.num_classes, images.labels.tolist()) == (("boots", "shoes"), 2, [0, 1, 1])
    assert all_of(images)[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert "left out: .txt (1), in no sub-folder, so of no class (1)" in images.summary
    assert "3 pictures" in images.summary and ".png (3)" in images.summary


def test_classes_may_be_named(photos):
    put(photos, "hats/5.png")
    images = open_images("image_folder", 6, 1, root=photos, labels=["shoes", "boots"])
    assert (images.class_names, images.labels.tolist()) == (("shoes", "boots"), [1, 0, 0])
    assert "in sub-folders that are no classes (1)" in images.summary
    with pytest.raises(
        DataError, match=r"labels: got 'sandals', which is no sub-folder with images; expected boots, hats, shoes"
    ):
        FileNames(photos, ["shoes", "sandals"])


def test_a_link_may_be_a_class(photos, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "9.png")
    (photos / "a").symlink_to(elsewhere)
    names = FileNames(photos, "folders")
    assert names.class_names == ("a", "boots", "shoes") and names.labels.tolist() == [1, 2, 2, 0]


def test_names_of_classes_are_texts_whatever_their_bytes(tmp_path):
    put(tmp_path, "\u00e9\u00e8/1.png", "x/1.png")
    os.rename(tmp_path / "x", bytes(tmp_path) + b"/\xff")
    names = FileNames(tmp_path, "folders")
    assert names.class_names == ("\u00e9\u00e8", "\ufffd")
    assert FileNames(tmp_path, ["\ufffd", "\u00e9\u00e8"]).labels.tolist() == [1, 0]


def test_names_of_classes_are_given_once_and_configs_can_hold_them(photos, tmp_path_factory):
    with pytest.raises(DataError, match="labels: got shoes, boots, shoes, expected each name once"):
        FileNames(photos, ["shoes", "boots", "shoes"])
    for name in ("${x}", "???"):
        root = tmp_path_factory.mktemp("odd")
        put(root, f"{name}/1.png", "shoes/1.png")
        with pytest.raises(DataError, match=rf"labels: got the sub-folder '{re.escape(name)}', expected a name that"):
            FileNames(root, "folders")


def test_one_class_is_none(tmp_path):
    put(tmp_path, "shoes/1.png")
    with pytest.raises(DataError, match="labels: got the sub-folders shoes, expected two or more"):
        FileNames(tmp_path, "folders")
    (tmp_path / "flat").mkdir()
    put(tmp_path / "flat", "1.png")
    with pytest.raises(DataError, match=r"holds no image in sub-folders, of which data\.labels makes classes"):
        FileNames(tmp_path / "flat", "folders")
    os.rename(tmp_path / "shoes", bytes(tmp_path) + b"/\xfe")
    put(tmp_path, "x/1.png")
    os.rename(tmp_path / "x", bytes(tmp_path) + b"/\xff")
    with pytest.raises(DataError, match="expected two or more with different names"):
        FileNames(tmp_path, "folders")


@pytest.mark.parametrize(
    "sizes, chosen",
    [([(8, 8)], 16), ([(31, 40)], 16), ([(64, 48)], 32), ([(2000, 63)], 32), ([(64, 64)], 64), ([(900, 800)], 64)],
)
def test_a_size_is_chosen_by_the_shorter_sides(tmp_path, sizes, chosen):
    for number, size in enumerate([*sizes, *sizes, (1, 1), (10_000, 9_000)]):
        put(tmp_path, f"{number}.png", size=size)
    (tmp_path / "damaged.png").write_text("no picture")
    assert chosen_size(FileNames(tmp_path)) == chosen


def test_no_size_without_a_picture(tmp_path):
    (tmp_path / "damaged.png").write_text("no picture")
    message = r"data\.root: none of 1 of its image files can be read, such as '.*damaged\.png' \(not an image; "
    with pytest.raises(DataError, match=message):
        chosen_size(FileNames(tmp_path))


def test_few_of_many_files_are_opened_for_a_size(tmp_path):
    put(tmp_path, "1.png", size=(40, 40))
    opened = []

    class Paths(list):
        def __len__(self):
            return 10**7

        def __getitem__(self, index):
            opened.append(index)
            return str(tmp_path / "1.png")

    assert chosen_size(Paths()) == 32
    assert opened == list(range(0, 10**7, 20_000)) and np.all(np.diff(opened) > 0)
