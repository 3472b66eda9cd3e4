import pathlib

import numpy as np
import pytest
from PIL import Image

from tf_blurdiff.data.pictures import WRITTEN, DataError, fit, image_grid, read_image, save_grid, save_image
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import writing


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp"])
def test_whatever_is_damaged_a_file_is_read_or_named(tmp_path, rng, kind):
    path = tmp_path / f"x.{kind}"
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = set()
    for trial in range(200):
        content = whole.copy()
        # Headers are where damage has the strangest consequences.
        places = rng.integers(0, min(len(content), 60 if trial % 2 else 10**6), 3)
        content[places] = rng.integers(0, 256, 3)
        path.write_bytes(content[: rng.integers(1, len(content) + 1)].tobytes())
        try:
            assert read_image(path, (4, 4, 3)).shape == (4, 4, 3)
            outcomes.add("read")
        except DataError as error:
            assert f"cannot read the image '{path}' (" in str(error) and "\n" not in str(error)
            outcomes.add("named")
    assert "named" in outcomes


@pytest.mark.parametrize("size", [(640, 480), (480, 640)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_large_jpeg_is_the_same_decoded_small(tmp_path, size, turned):
    width, height = size
    row, column = np.mgrid[:height, :width]
    waves = 60 * np.sin(row / 31) + 60 * np.sin(column / 47)
    picture = Image.fromarray(np.stack([128 + waves, 128 - waves, 128 + waves / 2], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    picture.save(tmp_path / "x.jpg", quality=95, exif=exif)
    shape = (48, 32, 3)
    expected = fit(picture.transpose(Image.Transpose.ROTATE_270) if turned else picture, shape).astype(int)
    assert np.abs(read_image(tmp_path / "x.jpg", shape) - expected).mean() < 2


def test_a_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    Image.new("RGB", (1000, 800)).save(tmp_path / "x.jpg")
    sizes = []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: sizes.append(image.size) or convert(image, mode))
    for size in (64, 100, 101, 400, 900):
        read_image(tmp_path / "x.jpg", (size, size, 3))
    # At least twice as large as wanted, by powers of two.
    assert sizes == [(250, 200), (250, 200), (500, 400), (1000, 800), (1000, 800)]


def test_a_picture_too_large_for_its_format_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^x\.webp cannot be written: .*16383 pixels$"), writing("x.webp"):
        save_image(np.zeros((2, 16_400, 1), np.uint8), tmp_path / "x.webp")


def test_a_picture_that_could_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def save(picture, path, **arguments):
        pathlib.Path(path).write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    path, image = tmp_path / "x.png", np.full((4, 4, 1), 7, np.uint8)
    save_image(image, path)
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", save)
        with pytest.raises(OSError, match="No space left"):
            save_image(image + 1, path)
    np.testing.assert_array_equal(read_image(path, (4, 4, 1)), image)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_grid_is_written_in_the_form_of_its_suffix(tmp_path, suffix, channels):
    levels = np.arange(4 * 48 * 48 * channels, dtype=np.uint64).reshape(4, 48, 48, channels) // 50 % 256
    images, path = levels.astype(np.uint8), tmp_path / "new" / f"grid{suffix.upper()}"
    save_grid(images, path)
    with Image.open(path) as picture:
        assert picture.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(102, 102, channels)
    difference = np.abs(pixels.astype(int) - image_grid(images)).mean()
    assert difference == 0.0 if suffix in (".png", ".webp") else 0.0 < difference < 3.0
