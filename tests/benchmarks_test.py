"""The benchmarks' own arithmetic: operations counted, what is made of times, distances. Nothing is timed here."""

import hashlib
import importlib.util
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import commands, models
from tf_blurdiff.data.sources import open_images, to_unit_range
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.features import open_features
from tf_blurdiff.networks.layers import UpsampleConv, attend

BENCHMARKS = commands.ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))  # Where its programs find each other.


def load(place):
    """A file of the benchmarks as a module; the folder holds programs, not a package."""
    path = BENCHMARKS / f"{place}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


operations, rounds, perceptual = load("speed/operations"), load("speed/rounds"), load("perceptual")
miniature_tables = load("miniature_tables")
export_figures, runtime_times, figure_file = load("export_figures"), load("runtime_times"), load("figure_file")


def count(function, *shapes):
    """The operations of a function of float32 tensors."""
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return operations.count_operations(tf.function(function, autograph=False).get_concrete_function(*specs))


@pytest.mark.parametrize("strides", [1, 2])
def test_a_convolution_counts_two_operations_per_multiply_add(strides):
    layer = keras.layers.Conv2D(7, 3, strides=strides, padding="same")
    expected = 2 * (5 * (8 // strides) * (6 // strides)) * (3 * 3 * 4) * 7
    assert count(layer, (5, 8, 6, 4)) == operations.Operations(expected, expected)


@pytest.mark.parametrize("shape", [(5, 4), (5, 8, 6, 4)])
def test_a_dense_layer(shape):
    expected = 2 * np.prod(shape) * 7
    assert count(keras.layers.Dense(7), shape).executed == expected


@pytest.mark.parametrize(
    "spelling", [attend, lambda q, k, v: tf.einsum("bnm,bmd->bnd", q @ tf.transpose(k, (0, 2, 1)), v)]
)
def test_attention_is_two_products(spelling):
    assert count(spelling, *[(3, 10, 4)] * 3).executed == 2 * (2 * 3 * 10 * 10 * 4)


def test_the_gradient_of_a_convolution_is_two_more():
    layer = keras.layers.Conv2D(7, 3, padding="same")
    layer.build((5, 8, 6, 4))

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x)))
        return tape.gradient(loss, [x, layer.kernel.value])

    assert count(gradients, (5, 8, 6, 4)).executed == 3 * 2 * (5 * 8 * 6) * (3 * 3 * 4) * 7


def test_an_upsampling_convolution_counts_nominally_as_repeated_pixels_and_a_convolution():
    layer = UpsampleConv(7)
    layer.build((5, 8, 6, 4))
    of_kernel = 2 * 16 * 9 * 4 * 7  # how the small kernel becomes the large one

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x)))
        return tape.gradient(loss, [x, layer.kernel.value])

    nominal = 2 * (5 * 16 * 12) * (3 * 3 * 4) * 7
    assert count(layer, (5, 8, 6, 4)) == operations.Operations(nominal * 16 / 36 + of_kernel, nominal + of_kernel)
    assert count(gradient, (5, 8, 6, 4)).nominal == 3 * nominal + 2 * of_kernel


def test_functions_that_are_called_count_and_of_branches_the_larger():
    product = tf.function(lambda x: x @ x, autograph=False)
    assert count(lambda x: product(product(x)), (6, 6)).executed == 2 * (2 * 6**3)
    branches = lambda x: tf.cond(x[0, 0] > 0, lambda: product(x), lambda: x)
    assert count(branches, (6, 6)).executed == 2 * 6**3


def test_a_shape_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="MatMul"):
        count(lambda x: x @ x, (None, None))


def test_the_ratio_is_taken_round_by_round():
    # The machine slows down threefold: the ratio of the medians would be 3 / 2.
    ratio = rounds.ratio([1.0, 3.0, 3.0], [2.0, 6.0, 1.5])
    assert (ratio.median, ratio.lowest, ratio.highest) == (0.5, 0.5, 2.0)
    with pytest.raises(ValueError):
        rounds.ratio([1.0, 2.0], [1.0])


def test_the_mean_over_sizes_is_geometric():
    ratios = [rounds.Ratio(median, 0.0, 9.0) for median in (0.5, 2.0, 8.0)]
    assert rounds.geometric_mean(ratios) == pytest.approx(2.0)


class MadeUpContender:
    """Takes the seconds that it is told; the first runs are slow."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, number):
        self.log.append((self.name, number))
        return [10 * self.seconds] + [self.seconds] * (number - 1)


@pytest.mark.parametrize("seconds, runs", [(1.0, 3), (0.1, 5), (0.001, 20)])
def test_contenders_take_turns(seconds, runs):
    log = []
    contenders = [MadeUpContender("a", seconds, log), MadeUpContender("b", 0.5 * seconds, log)]
    times = rounds.take_turns(contenders, 2, least_runs=3, warmup=4)
    assert times == [[seconds] * 2, [0.5 * seconds] * 2]
    assert log == [("a", 4), ("b", 4)] + [("a", runs), ("b", runs)] * 2


@pytest.fixture(scope="module")
def digits():
    return to_unit_range(open_images("digits", image_size=8, channels=1).read(np.arange(60))).numpy()


@pytest.mark.parametrize("name", ["pixels", "dct_energies"])
def test_the_perceptual_distance_goes_from_the_original_over_noise_to_a_stranger(name, digits, rng):
    distance = perceptual.PerceptualDistance(open_features(name, (8, 8, 1)), digits)
    noisy = [distance(digits + rng.normal(0, std, digits.shape)) for std in (0.05, 0.1, 0.2)]
    # Each digit at the place of every other one: all different pairs.
    strangers = np.mean([distance(np.roll(digits, shift, axis=0)) for shift in range(1, len(digits))])
    assert distance(digits) == 0.0
    assert 0.0 < noisy[0] < noisy[1] < noisy[2] < strangers
    assert strangers == pytest.approx(1.0, abs=1e-6)


def test_the_perceptual_distance_of_pixels_by_hand():
    originals = np.array([-1.0, 0.2, 1.0])[:, None, None, None] * np.ones((3, 8, 8, 1))
    distance = perceptual.PerceptualDistance(open_features("pixels", (8, 8, 1)), originals)
    # The pairs are 1.2, 0.8 and 2 apart; the last image is 0.4 away from its original.
    assert distance(originals - [[[[0.0]]], [[[0.0]]], [[[0.4]]]]) == pytest.approx((0.4 / 3) / (4.0 / 3), rel=0.02)


@pytest.mark.parametrize("count", [1, 2])
def test_the_perceptual_distance_needs_strangers(count):
    with pytest.raises(UserError, match=f"pixels: two originals .* Received: {count} image"):
        perceptual.PerceptualDistance(open_features("pixels", (8, 8, 1)), np.zeros((count, 8, 8, 1)))


def program(name, *arguments, **kwargs):
    """A benchmark as a user runs it, to its end."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """The .keras files of two untrained models of different families, with labels and without."""
    files, labelled = {}, {"network": models.small_network(num_classes=3), "label_dropout": 0.1}
    for process, settings in {"blurring": labelled, "cold": {"prediction": "x0", "sampler": "cold"}}.items():
        files[process] = tmp_path_factory.mktemp("runs") / process / "model.keras"
        files[process].parent.mkdir()
        models.randomized(models.make(process=process, num_steps=3, **settings)).save(files[process])
    return files


@pytest.mark.slow
def test_exports_says_what_each_export_is_and_draws_it(model_files, tmp_path):
    given = [f"--model={path}" for path in model_files.values()]
    result = program("exports", *given, "--picture=sheet.png", "--out=served", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    header, _, *rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("|")]
    rows = {cells[0]: dict(zip(header, cells, strict=True)) for cells in rows}
    assert [rows[str(path)]["process"] for path in model_files.values()] == list(model_files)
    for (process, path), sampler in zip(model_files.items(), ("ancestral2, 3", "cold, 3")):
        row, export_dir = rows[str(path)], tmp_path / "served" / process / "1"
        size = sum(file.stat().st_size for file in export_dir.rglob("*") if file.is_file())
        assert (row["signatures"], row["sampler, steps"]) == ("serving_default, png", sampler)
        assert float(row["MB"]) == pytest.approx(size / 1e6, abs=0.05)
        assert row["known image"] == "the same" and int(row["all signatures"]) <= 1 and int(row["model.sample"]) <= 1
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", models.PROCESSES)
def test_the_family_of_a_process(name):
    assert name.startswith(export_figures.family(models.PROCESSES[name]))


def test_differences_between_an_export_and_what_it_should_be_are_seen(rng):
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    others = images.copy()
    others[1, 2, 3] = 255 - images[1, 2, 3]
    assert export_figures.largest_difference(images, others) == abs(255 - 2 * int(images[1, 2, 3, 0]))
    manifest = {"known": {"image_sha256": hashlib.sha256(images[1].tobytes()).hexdigest()}}
    assert export_figures.is_known(images[1], manifest) and not export_figures.is_known(others[1], manifest)


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    """(folder, input, output) of a SavedModel that doubles a number."""
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], tf.int64, name="x")])
    path = tmp_path_factory.mktemp("doubling")
    tf.saved_model.save(module, str(path), signatures=module.double)
    return path, "serving_default_x:0", "PartitionedCall:0"


def test_an_export_is_called_so_many_times_in_the_cpp_runtime(doubling):
    path, given, output = doubling
    done = []
    times = runtime_times.times_in_cpp_runtime(path, {given: np.arange(3)}, output, 4, lambda: done.append(1))
    np.testing.assert_array_equal(times.answer, [0, 2, 4])
    assert times.load > 0 and len(times.calls) == 4 and min(times.calls) > 0
    assert len(done) == 5


@pytest.mark.parametrize("output, message", [("nothing:0", "no tensor nothing:0"), (None, "cannot load")])
def test_what_the_cpp_runtime_says_is_passed_on(doubling, tmp_path, output, message):
    path, given, _ = doubling
    with pytest.raises(RuntimeError, match=message):
        runtime_times.times_in_cpp_runtime(path if output else tmp_path, {given: np.arange(3)}, output, 1)


def test_restoration_has_a_column_for_each_feature_network(model_files, tmp_path):
    """Every row's figures are numbers, and an image as blurred as given is nearer than a stranger."""
    arguments = ["--num_images=6", "--num_seeds=2", "--features=pixels", "--features=dct_energies"]
    result = program("restoration", f"--model={model_files['blurring']}", *arguments, "--out=sheet.svg", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    header, _, *rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("|")]
    assert header == ["task", "what", "PSNR, dB", "SSIM", "distance, pixels", "distance, dct_energies"]
    assert [cells[1] for cells in rows if cells[0] == "twice the size"] == [
        "pixels repeated", "bicubic", "restored", "mean of 2 seeds",
    ]  # fmt: skip
    assert len(rows) == 10 and np.isfinite([[float(cell) for cell in cells[2:]] for cells in rows]).all()
    assert 0.0 < float(rows[0][4]) < 1.0
    assert "<svg" in (tmp_path / "sheet.svg").read_text()


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("exports", ["--model=nothing.keras"], "model file not found: nothing.keras"),
        (
            "restoration",
            ["--model=BLURRING", "--set=data.image_size=16", "--set=network.attention_resolutions=[8]"],
            "--config: images (8, 8, 1), the model's, are expected. Received: (16, 16, 1)",
        ),
    ],
)
def test_a_mistake_is_one_message(name, arguments, message, model_files, tmp_path):
    arguments = [argument.replace("BLURRING", str(model_files["blurring"])) for argument in arguments]
    result = program(name, *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    "given, message",
    [
        ("sheet.gif", "--out must end in .png, .pdf, .svg. Received: sheet.gif"),
        ("file/sheet.png", "--out file/sheet.png cannot be written"),
        ("folder.png", "--out folder.png cannot be written: it is a folder"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_at_the_start(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=message):
        figure_file.figure_file("out", given)
    assert figure_file.figure_file("out", "new/sheet.SVG").parent.is_dir()


def a_report(distance, bits):
    kernel = {"value": 0.0123, "standard_error": 0.0042}
    scores = {"frechet": distance, "kernel": kernel, "precision": 0.8, "recall": 0.5}
    model = {"scores": {"pixels": scores}, "bits": bits, "sampler": "ddim", "num_steps": 20, "num_images": 300}
    floor = {**scores, "frechet": 0.25}
    return {"models": [model], "real": {"features": [{"name": "pixels", "floor": floor}]}}


def test_runs_of_other_seeds_become_one_row_with_their_spread():
    reports = {"a": a_report(1.0, {"total": 3.0}), "b": a_report(3.0, {"total": 3.5}), "c": a_report(8.0, {"none": ""})}
    rows = {"both": ("a", "b"), "one": ("c",), "not there": ("d",)}
    titles, floor, both, one = miniature_tables.runs_table(rows, reports)
    assert titles[3:] == [
        "Frechet, pixels", "kernel, pixels", "precision, pixels", "recall, pixels", "bits per dimension",
    ]  # fmt: skip
    assert floor[3] == "0.25"
    assert both == ["both", "2", "ddim, 20", "2 ± 1.4", "0.0123 ± 0", "0.8 ± 0", "0.5 ± 0", "3.25 ± 0.35"]
    assert one == ["one", "1", "ddim, 20", "8", "0.0123", "0.8", "0.5", "no bound"]


def test_ways_of_sampling_become_rows():
    titles, row = miniature_tables.calls_table([("a", a_report(1.5, {}))])
    assert titles == ["run", "samples", "sampler", "calls", "Frechet, pixels", "kernel, pixels"]
    assert row == ["a", "300", "ddim", "20", "1.5", "0.0123 ± 0.0042"]
