"""Many images in files: each is that of `sample`, by any number of replicas and workers, and after any interruption."""

import json
import os
import signal
import time
from subprocess import PIPE, Popen

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import make, randomized, small_network
from tf_blurdiff import generation
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.devices import Devices
from tf_blurdiff.errors import UserError
from tf_blurdiff.generation import generate

SEEDS = [5, -3, 2**62, 0, 6, 7, 8]
LABELS = [0, 1, 2, 0, 0, 2, 1]
ONE = Devices(tf.distribute.get_strategy(), in_step=False)


def assert_same_images(actual, expected):
    np.testing.assert_allclose(np.asarray(actual, np.int64), to_uint8(expected).numpy().astype(np.int64), atol=1)


def read(folder, seeds):
    return np.stack([np.asarray(Image.open(folder / f"seed_{seed}.png")) for seed in seeds])[..., None]


def names(folder):
    return {path.name for path in folder.iterdir()}


def worker(number, num_workers):
    return Devices(ONE.strategy, number, num_workers, in_step=False)


@pytest.fixture(scope="module")
def plain():
    return randomized(make(num_steps=4))


@pytest.fixture(scope="module")
def guided():
    return randomized(make(small_network(num_classes=3), prediction="v", label_dropout=0.2, num_steps=4))


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def on_replicas(request, two_replicas, plain, guided, tmp_path_factory):
    """The devices, and both models as they load there."""
    if request.param == 1:
        return ONE, plain, guided
    folder = tmp_path_factory.mktemp("models")
    loaded = []
    for name, model in (("plain.keras", plain), ("guided.keras", guided)):
        model.save(folder / name)
        with two_replicas.scope():
            loaded.append(bd.load_model(folder / name))
    return Devices(two_replicas, in_step=False), *loaded


# Three images a batch and replica: the last batches are not full.
@pytest.mark.parametrize("sampling", [{}, {"sampler": "ancestral"}, {"noise_seed": 9, "sampler": "ancestral"}])
def test_a_folder_has_the_image_of_every_seed(on_replicas, plain, tmp_path, sampling):
    devices, model, _ = on_replicas
    generate(model, SEEDS, tmp_path, devices, batch_size=3, **sampling)
    noise_seed = sampling.pop("noise_seed", None)
    noise_seeds = None if noise_seed is None else [noise_seed] * len(SEEDS)
    assert_same_images(read(tmp_path, SEEDS), plain.sample(SEEDS, noise_seeds=noise_seeds, **sampling))
    assert names(tmp_path) == {"settings.json", *(f"seed_{seed}.png" for seed in SEEDS)}


def test_a_file_has_images_seeds_and_labels_in_order(on_replicas, guided, tmp_path):
    devices, _, model = on_replicas
    generate(model, SEEDS, tmp_path / "set.npz", devices, LABELS, guidance_scale=2.0, batch_size=2)
    assert names(tmp_path) == {"set.npz"}
    with np.load(tmp_path / "set.npz") as file:
        assert set(file) == {"image", "seed", "label"}
        assert file["image"].dtype == np.uint8 and file["seed"].dtype == file["label"].dtype == np.int64
        assert file["seed"].tolist() == SEEDS and file["label"].tolist() == LABELS
        assert_same_images(file["image"], guided.sample(SEEDS, labels=LABELS, guidance_scale=2.0))


def test_without_labels_the_label_is_none(guided, tmp_path):
    generate(guided, SEEDS[:2], tmp_path / "set.npz", ONE)
    with np.load(tmp_path / "set.npz") as file:
        assert file["label"].tolist() == [3, 3]
        assert_same_images(file["image"], guided.sample(SEEDS[:2]))


def test_colour_images_keep_their_channels(tmp_path):
    z, t = keras.Input((8, 6, 3)), keras.Input(())
    shift = keras.layers.Reshape((1, 1, 1))(t)
    network = keras.Model([z, t], keras.layers.Conv2D(3, 3, padding="same")(z + shift))
    model = bd.DiffusionModel(network, bd.process.blurring(sigma_blur_max=4.0), image_shape=(8, 6, 3))
    rng = np.random.default_rng(0)
    model.adapt([rng.uniform(-1, 1, (64, 8, 6, 3)).astype("float32")])
    for average in model.ema_weights:
        average.assign(0.1 * rng.normal(size=average.shape))
    generate(model, [1, 2], tmp_path / "set.npz", ONE, num_steps=2)
    with np.load(tmp_path / "set.npz") as file:
        assert_same_images(file["image"], model.sample([1, 2], num_steps=2))


def drawn(monkeypatch):
    """A list that will hold every seed that is drawn from now on."""
    seeds, call = [], generation._BatchSampler.__call__

    def recorded(self, batch, labels):
        seeds.extend(batch)
        return call(self, batch, labels)

    monkeypatch.setattr(generation._BatchSampler, "__call__", recorded)
    return seeds


def test_what_is_there_is_not_made_again(plain, tmp_path, monkeypatch):
    generate(plain, SEEDS, tmp_path, ONE)
    for seed in (-3, 7):
        (tmp_path / f"seed_{seed}.png").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    seeds = drawn(monkeypatch)
    generate(plain, [*SEEDS, 100], tmp_path, ONE)
    assert seeds == [-3, 7, 100]
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    assert_same_images(read(tmp_path, [*SEEDS, 100]), plain.sample([*SEEDS, 100]))


def test_a_whole_file_is_not_made_again(guided, tmp_path, monkeypatch):
    generate(guided, SEEDS, tmp_path / "set.npz", ONE, LABELS)
    before = (tmp_path / "set.npz").read_bytes()
    # An interruption after the last rename leaves the parts.
    (tmp_path / "set.npz.parts").mkdir()
    seeds = drawn(monkeypatch)
    generate(guided, SEEDS, tmp_path / "set.npz", ONE, LABELS)
    assert not seeds and (tmp_path / "set.npz").read_bytes() == before and names(tmp_path) == {"set.npz"}


@pytest.mark.parametrize("out", ["folder", "set.npz"])
@pytest.mark.parametrize("calls", [1, 6, *(pytest.param(calls, marks=pytest.mark.slow) for calls in (2, 8))])
def test_an_interruption_anywhere_changes_nothing(plain, tmp_path, monkeypatch, out, calls):
    """Before the rename of the settings, of each image, and of the whole file."""
    replace, left = os.replace, [calls]

    def interrupted(*paths):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(plain, SEEDS if out == "folder" else SEEDS[:-1], tmp_path / out, ONE, batch_size=3)
    assert not (tmp_path / "set.npz").exists()
    generate(plain, SEEDS, tmp_path / out, ONE, batch_size=3)
    if out == "folder":
        assert names(tmp_path / out) == {"settings.json", *(f"seed_{seed}.png" for seed in SEEDS)}
        return assert_same_images(read(tmp_path / out, SEEDS), plain.sample(SEEDS))
    assert names(tmp_path) == {"set.npz"}
    assert_same_images(np.load(tmp_path / out)["image"], plain.sample(SEEDS))


def test_workers_share_the_seeds(plain, tmp_path, monkeypatch):
    seeds = drawn(monkeypatch)
    for number in (2, 1, 1, 0):
        generate(plain, SEEDS, tmp_path / "set.npz", worker(number, 3))
    assert sorted(seeds) == sorted(SEEDS) and seeds[:2] == SEEDS[2::3]
    assert names(tmp_path) == {"set.npz"}
    assert_same_images(np.load(tmp_path / "set.npz")["image"], plain.sample(SEEDS))


@pytest.mark.parametrize("out", ["folder", "set.npz"])
def test_the_first_worker_waits_for_the_others(plain, tmp_path, monkeypatch, capsys, out):
    others = [1, 2]
    # While it waits, one by one, the others work.
    monkeypatch.setattr(time, "sleep", lambda _: generate(plain, SEEDS, tmp_path / out, worker(others.pop(0), 3)))
    generate(plain, SEEDS, tmp_path / out, worker(0, 3), verbose=True)
    assert not others
    assert capsys.readouterr().out == "waiting for 4 images of the other workers\n"
    assert (tmp_path / "set.npz").exists() or len(names(tmp_path / "folder")) == len(SEEDS) + 1


def test_other_workers_can_go_on(plain, tmp_path, monkeypatch):
    generate(plain, SEEDS, tmp_path, worker(1, 3))
    seeds = drawn(monkeypatch)
    generate(plain, SEEDS, tmp_path, worker(1, 2))
    generate(plain, SEEDS, tmp_path, worker(0, 2))
    assert sorted(seeds) == sorted({*SEEDS} - {*SEEDS[1::3]})


OTHERWISE = [
    ({"num_steps": 5}, r"num_steps \(4 there, 5 here\)"),
    (
        {"sampler": "ddim", "eta": 0.5},
        r"sampler \('ancestral2' there, 'ddim' here\).*eta \(0.0",
    ),
    ({"noise_seed": 0}, r"noise_seed \(None there, 0 here\)"),
    ({"guidance_scale": 3.0}, r"guidance_scale \(2.0 there, 3.0 here\)"),
    ({"labels": [0, 2]}, r"label"),
    ({"labels": None}, r"label"),
]


@pytest.mark.parametrize("out", ["folder", pytest.param("set.npz", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampling, message", OTHERWISE)
def test_images_made_otherwise_are_not_mixed(guided, tmp_path, out, sampling, message):
    given = {"labels": [0, 1], "guidance_scale": 2.0}
    generate(guided, [1, 2], tmp_path / out, ONE, **given)
    with pytest.raises(UserError, match=f"{out} holds images that were made otherwise: .*{message}"):
        generate(guided, [1, 2], tmp_path / out, ONE, **{**given, **sampling})
    generate(guided, [1, 2], tmp_path / out, ONE, **given)


@pytest.mark.parametrize("change", ["weight", "argument"])
def test_images_of_another_model_are_not_mixed(tmp_path, change):
    model = randomized(make(num_steps=2))
    generate(model, [1, 2], tmp_path, ONE)
    if change == "weight":
        model.ema_weights[0].assign(model.ema_weights[0] + 1e-6)
    else:
        model.seed = 5
    with pytest.raises(UserError, match=r"made otherwise: model \('[0-9a-f]{16}' there, '[0-9a-f]{16}' here\);"):
        generate(model, [1, 2, 3], tmp_path, ONE)
    assert "seed_3.png" not in names(tmp_path)


def test_a_label_that_differs_is_named(guided, tmp_path):
    generate(guided, [1, 2], tmp_path, ONE, [0, 1])
    with pytest.raises(UserError, match=r"label of seed 2 \(1 there, 2 here\)"):
        generate(guided, [1, 2], tmp_path, ONE, [0, 2])


def test_unfinished_parts_are_not_mixed_either(plain, tmp_path):
    generate(plain, SEEDS, tmp_path / "set.npz", worker(1, 2))
    with pytest.raises(UserError, match=r"set.npz.parts holds images that were made otherwise: num_steps"):
        generate(plain, SEEDS, tmp_path / "set.npz", ONE, num_steps=5)


def strangers_image(folder):
    (folder / "set").mkdir()
    (folder / "set" / "seed_1.png").write_bytes(b"not empty")


def strangers_settings(folder):
    (folder / "set").mkdir()
    (folder / "set" / "settings.json").write_text("[1, 2]")


def strangers_file(folder):
    np.savez(folder / "set.npz", image=np.zeros(3))


def cut_file(folder):
    np.savez(folder / "set.npz", image=np.zeros(3))
    (folder / "set.npz").write_bytes((folder / "set.npz").read_bytes()[:100])


def file_for_folder(folder):
    (folder / "set").write_text("")


def folder_for_file(folder):
    (folder / "set.npz").mkdir()


PLACES = [
    (strangers_image, "set", "set holds images but no settings.json"),
    (strangers_settings, "set", "set does not say how its images were made"),
    (strangers_file, "set.npz", "set.npz does not say how its images were made"),
    (cut_file, "set.npz", "set.npz is there already and is not a whole .npz"),
    (file_for_folder, "set", "set cannot be written: File exists"),
    (file_for_folder, "set/set.npz", "set.npz cannot be written: Not a directory"),
    (folder_for_file, "set.npz", "set.npz cannot be written: Is a directory"),
]


@pytest.mark.parametrize("prepare, out, message", PLACES)
def test_a_place_that_cannot_be_used_is_named(plain, tmp_path, prepare, out, message):
    prepare(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        generate(plain, [1, 2], tmp_path / out, ONE)
    assert "\n" not in str(caught.value)


def test_a_file_of_other_seeds_is_kept(plain, tmp_path):
    generate(plain, [1, 2], tmp_path / "set.npz", ONE)
    with pytest.raises(UserError, match=r"set.npz holds images that were made otherwise: seeds \(another list\)"):
        generate(plain, [1, 2, 3], tmp_path / "set.npz", ONE)


def test_a_full_disk_is_one_line_and_leaves_no_half_image(plain, tmp_path, monkeypatch):
    def half(image, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", half)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            generate(plain, [1, 2], tmp_path, ONE)
    generate(plain, [1, 2], tmp_path, ONE)
    assert_same_images(read(tmp_path, [1, 2]), plain.sample([1, 2]))


def test_too_large_a_batch_is_named(plain, tmp_path, monkeypatch):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nhint")

    monkeypatch.setattr(generation._BatchSampler, "__call__", fail)
    with pytest.raises(UserError, match="batch_size must be smaller: 512 images do not fit"):
        generate(plain, [1, 2], tmp_path, ONE, batch_size=512)


MISTAKES = [
    ({"seeds": [1, 2, 1]}, "seeds must be different from each other"),
    ({"seeds": []}, "seeds must be a list of at least one integer"),
    ({"guidance_scale": [1.0, 2.0]}, "guidance_scale must be one number"),
    ({"labels": [1]}, "labels must be 2 integers"),
    ({"noise_seed": 0.5}, "noise_seed must be a list of at least one integer"),
    ({"batch_size": 0}, "batch_size must be an integer of 1 or more"),
    ({"num_steps": 0}, "num_steps must be an integer of 1 or more"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES)
def test_wrong_arguments_are_named(guided, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        generate(guided, out=tmp_path / "set", devices=ONE, **{"seeds": [1, 2], **arguments})
    assert not names(tmp_path)


def test_a_model_of_another_strategy_is_refused(plain, two_replicas, tmp_path):
    with pytest.raises(UserError, match=r"inside devices\.strategy\.scope"):
        generate(plain, [1], tmp_path, Devices(two_replicas, in_step=False))


def start(folder, run, out, number):
    cluster = {"worker": ["localhost:1", "localhost:2"]}  # Nobody listens: workers do not talk to each other.
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": number}})
    flags = ["--num_images", 60, "--num_steps", 50, "--batch_size", 1, "--out_dir" if out == "folder" else "--out", out]
    command = commands.command("sample", "--model", run / "model.keras", *flags)
    environment = commands.environment(TF_CONFIG=config)
    return Popen(command, cwd=folder, env=environment, stdout=PIPE, stderr=PIPE, text=True)


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("out", [pytest.param("folder", marks=pytest.mark.slow), "set.npz"])
def test_a_killed_worker_goes_on_beside_the_other(trained_run, trained_model, tmp_path, out):
    folder = tmp_path / ("folder" if out == "folder" else "set.npz.parts")
    second = start(tmp_path, trained_run, out, 1)
    wait_for(lambda: len(list(folder.glob("seed_*.png"))) >= 3, second)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("seed_*.png")}
    assert 3 <= len(kept) < 30
    both = [start(tmp_path, trained_run, out, number) for number in (0, 1)]
    try:
        outputs = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], outputs
    if out == "folder":
        assert all(path.stat().st_mtime_ns == made for path, made in kept.items())
        images = read(folder, range(60))
    else:
        assert names(tmp_path) == {"set.npz"}
        images = np.load(tmp_path / out)["image"]
    assert_same_images(images, trained_model.sample(range(60), num_steps=50))
