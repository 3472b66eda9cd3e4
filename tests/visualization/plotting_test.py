import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import PROCESSES
from tf_blurdiff.errors import UserError
from tf_blurdiff.visualization import inspection, plotting

COLOUR, GREY = (np.random.default_rng(0).integers(0, 256, (3, 6, 8, channels), np.uint8) for channels in (3, 1))


def test_a_sheet_has_every_picture_in_its_place_under_its_labels(tmp_path):
    figure = plotting.sheet([list(COLOUR), [GREY[0], None, GREY[2]]], ["first", "second"], ["a", "b", "c"])
    axes = np.array(figure.axes).reshape(2, 3)
    assert [place.get_title() for place in axes[0]] == ["a", "b", "c"]
    assert [place.get_ylabel() for place in axes[:, 0]] == ["first", "second"]
    for number in range(3):
        np.testing.assert_array_equal(axes[0, number].images[0].get_array(), COLOUR[number])
    for number in (0, 2):
        (image,) = axes[1, number].images
        np.testing.assert_array_equal(image.get_array(), GREY[number, ..., 0])
        assert image.get_clim() == (0, 255)  # Each its own scale would make a grey picture black and white.
    assert not axes[1, 1].images


@pytest.mark.parametrize("suffix", plotting.FIGURE_SUFFIXES)
def test_nothing_on_a_sheet_is_cut(tmp_path, suffix):
    figure = plotting.sheet([[GREY[0]] * 2], ["a label that is longer than usual"], ["t = 0", "t = 1"])
    path = tmp_path / f"x{suffix}"
    plotting.save_figure(figure, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".png":
        picture = np.asarray(Image.open(path).convert("L"))
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == 255).all() and (picture[:, : picture.shape[1] // 4] < 128).any()


def test_pictures_are_drawn_pixel_by_pixel_as_far_as_there_is_room():
    """A side of 2^16 pixels is more than matplotlib can draw, and a quarter of that more than memory may hold."""

    def width_in_pixels(size, columns):
        picture = np.zeros((size, size, 1), np.uint8)
        figure = plotting.sheet([[picture] + [None] * (columns - 1)], ["row"], ["column"] * columns)
        return figure.get_size_inches()[0] * figure.dpi

    assert 2 * 300 < width_in_pixels(300, 2) < 3 * 300
    assert width_in_pixels(1024, 40) < 2**14


@pytest.mark.parametrize("suffix", plotting.ANIMATION_SUFFIXES)
def test_an_animation_shows_the_pictures_enlarged(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    images = plotting.frames({"colour": COLOUR, "a name wider than its picture": GREY}, ["t = 1", "t = 0.5", "t = 0"])
    plotting.save_animation(images, path)
    shades = {}
    with Image.open(path) as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0
        for number in range(3):
            animation.seek(number)
            shades[number] = np.asarray(animation.convert("RGB"), int)
    top = 22  # below the names
    tolerance = 30 if suffix == ".gif" else 0  # A GIF has 256 colours.
    for number, frame in shades.items():
        assert frame.shape == shades[0].shape
        colour = frame[top : top + 6 * 16, 8 : 8 + 8 * 16]
        np.testing.assert_allclose(colour[8::16, 8::16], COLOUR[number], atol=tolerance)
        grey = frame[top : top + 6 * 16, 8 + 128 + 8 :][:, : 8 * 16]
        np.testing.assert_allclose(grey[8::16, 8::16], np.repeat(GREY[number], 3, axis=-1), atol=tolerance)
        for edge in (frame[:, :4], frame[:, -4:], frame[-2:]):
            assert (edge == 255).all()
    # Names and captions are there, and captions differ.
    assert (shades[0][:top] < 128).any()
    assert (shades[0][top + 6 * 16 :] != shades[1][top + 6 * 16 :]).any()


def test_a_large_picture_is_not_enlarged():
    (image,) = plotting.frames({"x": np.full((1, 200, 300, 1), 7, np.uint8)}, ["t"])
    assert (np.asarray(image)[..., 0] == 7).sum() >= 200 * 300
    assert image.size[0] < 2 * 300


@pytest.mark.parametrize(
    "name",
    ["blurring", *(pytest.param(name, marks=pytest.mark.slow) for name in PROCESSES if name != "blurring")],
)
def test_the_schedules_are_drawn_as_they_are(name, tmp_path):
    curves = inspection.curves(PROCESSES[name], 8, num_times=11)
    figure = plotting.schedule_figure({name: curves, "another": curves})
    assert [part.get_suptitle() for part in figure.subfigs] == [name, "another"]
    for part in figure.subfigs:
        levels, blur, bands = part.axes
        for axes, expected in ((levels, [curves.a_t, curves.sigma_t]), (blur, [curves.blur_sigma])):
            for line, values in zip(axes.lines, expected, strict=True):
                np.testing.assert_array_equal(line.get_xdata(), curves.times)
                np.testing.assert_array_equal(line.get_ydata(), values)
        silent = name == "cold"
        assert bands.get_title() == ("no noise: $\\log\\,\\alpha_t^2$" if silent else "log-SNR")
        values = curves.log_alpha_squared if silent else curves.logsnr
        for line, of_frequency, frequency in zip(bands.lines, values.T, curves.frequencies, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), of_frequency)
            assert line.get_label() == str(frequency)
        # The highest values are all seen; what is lost in the depths may not be.
        lowest, highest = bands.get_ylim()
        assert values.max() < highest < values.max() + 5 and lowest > -30
    plotting.save_figure(figure, tmp_path / "x.png")


ERRORS = [
    inspection.SolverError("ddim", "uniform", 5, 0.1, "multistep3", 50),
    inspection.SolverError("ddim", "uniform", 10, 0.05, "multistep3", 50),
    inspection.SolverError("multistep2", "quadratic", 5, 0.02, "multistep3", 50),
    inspection.SolverError("multistep2", "quadratic", 10, float("nan"), "multistep3", 50),
]


def test_errors_are_drawn_on_log_scales(tmp_path):
    figure = plotting.solver_figure(ERRORS)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "10"]
    assert "multistep3 in 50 steps" in axes.get_ylabel()
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["ddim, grid uniform"] == [[5, 0.1], [10, 0.05]]
    assert lines["multistep2, grid quadratic"][0] == [5, 0.02]
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines]
    assert looks[0][0] != looks[1][0] and looks[0][1] != looks[1][1]
    plotting.save_figure(figure, tmp_path / "x.png")
    own = [error._replace(reference=error.sampler) for error in ERRORS]
    assert "to itself in 50 steps" in plotting.solver_figure(own).axes[0].get_ylabel()


def test_tables_can_be_read(tmp_path):
    plotting.save_table(ERRORS, tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], int(row["num_steps"]), row["reference_steps"]) for row in rows] == [
        ("ddim", 5, "50"), ("ddim", 10, "50"), ("multistep2", 5, "50"), ("multistep2", 10, "50"),
    ]  # fmt: skip
    assert [float(row["error"]) for row in rows[:3]] == [0.1, 0.05, 0.02]
    plotting.save_table(ERRORS, tmp_path / "x.json")
    rows = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert [row["error"] for row in rows] == [0.1, 0.05, 0.02, None]
    assert [row["grid"] for row in rows] == ["uniform", "uniform", "quadratic", "quadratic"]


@pytest.mark.parametrize("kind", ["figure", "animation", "table"])
def test_what_was_there_stays_if_writing_fails(tmp_path, kind, monkeypatch):
    """The disk is full half-way."""

    def fail(*arguments, **keywords):
        path = next(each for each in arguments if hasattr(each, "write_text"))
        path.write_text("half")
        raise OSError(28, "No space left on device")

    path = tmp_path / {"figure": "x.png", "animation": "x.gif", "table": "x.csv"}[kind]
    path.write_text("old")
    if kind == "figure":
        figure = plotting.sheet([[GREY[0]]], [""], [""])
        figure.savefig = fail
        write = lambda: plotting.save_figure(figure, path)
    elif kind == "animation":
        monkeypatch.setattr(Image.Image, "save", fail)
        write = lambda: plotting.save_animation(plotting.frames({"x": GREY}, ["", "", ""]), path)
    else:
        monkeypatch.setattr(plotting, "_write_table", fail)
        write = lambda: plotting.save_table(ERRORS, path)
    with pytest.raises(OSError, match="No space"):
        write()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_matplotlib_is_needed_for_a_figure_only(tmp_path):
    program = "import sys; sys.modules['matplotlib'] = None; import tf_blurdiff.visualize; print('imported')"
    assert commands.run_python(program, cwd=tmp_path).strip() == "imported"


def test_without_matplotlib_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"figures need matplotlib \(pip install 'tf_blurdiff\[plots\]'\)"):
        plotting.check_matplotlib()


def test_curves_of_one_process_are_a_figure_too():
    curves = inspection.curves(bd.process.gaussian(), 8, num_times=3)
    assert len(plotting.schedule_figure({"gaussian": curves}).subfigs) == 1
