import os

import numpy as np
import pytest

from tests.data.listing_test import put
from tests.support.images import all_of
from tf_blurdiff.data.batches import training_batches
from tf_blurdiff.data.held_out import split_off
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.data.sources import open_images


@pytest.mark.parametrize("share, count, held_out", [(0.05, 300, 15), (0.05, 7, 1), (0.5, 2, 1), (0.99, 3, 2)])
def test_parts_are_whole_and_apart(share, count, held_out):
    learned, kept = split_off(share, count)
    assert len(kept) == held_out and np.all(np.diff(learned) > 0) and np.all(np.diff(kept) > 0)
    np.testing.assert_array_equal(np.sort([*learned, *kept]), np.arange(count))


def test_the_part_is_the_same_everywhere():
    # SplitMix64 of 0 to 9, computed with Python's integers.
    def mixed(key):
        mask, key = 2**64 - 1, (key + 0x9E3779B97F4A7C15) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ (key >> shift)) * factor & mask
        return key ^ (key >> 31)

    expected = sorted(sorted(range(1000), key=mixed)[:100])
    assert split_off(0.1, 1000)[1].tolist() == expected
    # About as many of every tenth part, as by chance: standard deviation 3.
    assert all(0 < count < 20 for count in np.histogram(expected, 10)[0])


def test_one_image_cannot_be_held_out():
    with pytest.raises(DataError, match=r"held_out: got 0\.1, expected 0, since there is 1 image"):
        split_off(0.1, 1)


@pytest.mark.parametrize("source", ["digits", "image_folder"])
def test_what_is_held_out_is_in_no_training_batch(source, tmp_path):
    put(tmp_path, *(f"{number:03}.png" for number in range(200)))
    options = {"root": tmp_path} if source == "image_folder" else {"split": "train[:200]"}
    images = open_images(source, 8, 1, held_out=0.1, **options)
    assert (images.num_images, images.held_out.num_images, images.held_out.held_out) == (180, 20, None)
    whole = {picture.tobytes() for picture in all_of(open_images(source, 8, 1, **options))}
    kept = {picture.tobytes() for picture in all_of(images.held_out)}
    batches = training_batches(images, 30, seed=0).take(6).as_numpy_iterator()
    learned = {picture.tobytes() for batch in batches for picture in batch}
    assert learned | kept == whole and not learned & kept and len(kept) == 20


def test_labels_go_with_their_images(tmp_path):
    everything, images = (open_images("digits", 8, 1, held_out=share) for share in (0.0, 0.25))
    by_pixels = dict(zip((picture.tobytes() for picture in all_of(everything)), everything.labels))
    for part in (images, images.held_out):
        assert [by_pixels[picture.tobytes()] for picture in all_of(part)] == part.labels.tolist()
        assert part.num_classes == 10


def test_a_damaged_file_is_replaced_by_one_of_its_own_part(tmp_path):
    put(tmp_path, *(f"{number:03}.png" for number in range(100)))
    kept = open_images("image_folder", 6, 1, root=tmp_path, held_out=0.5).held_out
    held_out = set(all_of(kept)[:, 0, 0, 0].tolist())
    for number in range(0, 100, 3):
        (tmp_path / f"{number:03}.png").write_text("damaged")
    images = open_images("image_folder", 6, 1, root=tmp_path, held_out=0.5)
    assert not held_out & set(all_of(images)[:, 0, 0, 0].tolist())
    assert set(all_of(images.held_out)[:, 0, 0, 0].tolist()) <= held_out


def test_files_that_come_later_change_little_of_the_part(tmp_path):
    def held_out():
        images = open_images("image_folder", 6, 1, root=tmp_path, held_out=0.2)
        return set(all_of(images.held_out)[:, 0, 0, 0].tolist())

    put(tmp_path, *(f"{number:03}.png" for number in range(100)))
    before = held_out()
    put(tmp_path, *(f"0{number:02}a.png" for number in range(5)), value=200)
    after = held_out()
    assert len(before) == 20 and len(before - after) <= 3
    os.rename(tmp_path, tmp_path.with_name("moved"))
    tmp_path.symlink_to(tmp_path.with_name("moved"))
    assert held_out() == after


def test_pictures_in_memory_are_known_to_be(tmp_path):
    put(tmp_path, *(f"{number:03}.png" for number in range(40)))
    images = open_images("image_folder", 6, 1, root=tmp_path, held_out=0.5)
    all_of(images)
    assert bool(images.are_in_memory()) and not bool(images.held_out.are_in_memory())
