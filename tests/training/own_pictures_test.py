"""From folders of pictures to models: what is said, chosen, kept aside, named and gone on with."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.picture_folders import make
from tests.support.runs import assert_same_weights, rows_of, with_small_network
from tf_blurdiff.config.loading import build_images, load_config
from tf_blurdiff.data import to_unit_range
from tf_blurdiff.data.pictures import DataError
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import train_step
from tf_blurdiff.training.loop import train
from tf_blurdiff.training.snapshots import Snapshots

pytestmark = pytest.mark.usefixtures("small_network")
SETTINGS = [
    "train.steps=12", "train.batch_size=8", "train.checkpoint_every=4", "train.sample_every=12", "train.log_every=4",
    "train.warmup_steps=2", "train.precision=float32", "sample.num_steps=3", "sample.num_images=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pictures"), count=40)


def own(root, *more):
    return load_config("folder", [*SETTINGS, f"data.root={root}", *more])


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """The run directory of the odd pictures with their folders as labels, and what was printed."""
    run_dir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_small_network(monkeypatch)
        printed = []
        monkeypatch.setattr("builtins.print", lambda *words, **more: printed.append(" ".join(map(str, words))))
        train(own(folders[1], "data.labels=folders", "model.label_dropout=0.2"), run_dir)
    return run_dir, printed


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_run_says_what_there_is_and_what_it_chose(run, folders):
    run_dir, printed = run
    chosen = "data.image_size 64, data.labels ['boots', 'hats', 'shoes'], model.loss_exponent 0.5, "
    assert printed[0] == f"chosen: {chosen}model.prediction 'preconditioned', network.num_classes 3"
    config = load_config(run_dir / "config.yaml")
    images = build_images(config)
    learned, held_out = images.num_images, images.held_out.num_images
    assert (
        printed[1].startswith(f"{learned + held_out} pictures in '{folders[1]}': .jpg (") and ".heic (1)" in printed[1]
    )
    assert printed[2] == f"{held_out} images are held out, {learned} are learned from"
    assert (config.data.image_size, config.network.num_classes) == (64, 3)
    assert config.data.labels == ("boots", "hats", "shoes")


def test_the_model_knows_the_names_of_its_labels(run, tmp_path):
    model = bd.load_model(run[0] / "model.keras")
    assert model.class_names == ("boots", "hats", "shoes") and model.image_shape == (64, 64, 3)
    assert model.averaged().class_names == model.class_names
    other = bd.DiffusionModel.from_config({**model.get_config(), "class_names": None})
    other.set_weights(model.get_weights())
    assert other.fingerprint() == model.fingerprint() and other.class_names is None


def test_the_held_out_loss_is_written_at_each_checkpoint(run):
    run_dir, _ = run
    rows = rows_of(run_dir, "held_out_loss")
    assert [row["step"] for row in rows] == [4, 8, 12] and all("averaged_loss" in row for row in rows)
    config = load_config(run_dir / "config.yaml")
    held_out = build_images(config).held_out
    model = bd.load_model(run_dir / "model.keras")
    pixels = held_out.read(np.arange(held_out.num_images))
    model.compile()
    loss = model.evaluate(to_unit_range(pixels), held_out.labels, batch_size=32, verbose=0)
    np.testing.assert_allclose(rows[-1]["held_out_loss"], loss, rtol=1e-5)
    tags = set()
    for path in (run_dir / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            tags |= {value.tag for value in tf.compat.v1.Event.FromString(record).summary.value}
    assert {"held_out_loss", "averaged_loss"} <= tags


def test_the_best_model_is_the_best_on_what_is_held_out(folders, tmp_path, monkeypatch):
    losses, saved = iter([2.0, 1.0, 3.0]), []
    monkeypatch.setattr(Snapshots, "_ema_loss", lambda self: 1.0 / len(saved) if saved else 2.0)  # Better and better.
    monkeypatch.setattr(Snapshots, "_loss_of", lambda self, images: next(losses))
    monkeypatch.setattr(Snapshots, "_save_model", lambda self, names: saved.append(names[-1]))
    train(own(folders[2], "data.image_size=16"), tmp_path, verbose=False)
    assert saved == ["best.keras", "best.keras", "model.keras"]


def test_a_held_out_picture_that_cannot_be_read_is_told_of_before_the_first_step(folders, tmp_path, monkeypatch):
    config = own(folders[2], "data.image_size=16", "data.held_out=0.5", "data.max_corrupt=0")
    images = build_images(config)

    def fetch(indices):
        raise DataError("the file is damaged")

    monkeypatch.setattr(images.held_out, "_fetch", fetch)
    monkeypatch.setattr("tf_blurdiff.config.loading.build_images", lambda config: images)
    monkeypatch.setattr("tf_blurdiff.training.loop.Run._adapt", None)
    with pytest.raises(DataError, match=r"^the file is damaged$"):
        train(config, tmp_path, verbose=False)


@pytest.mark.parametrize("augment, is_mirrored", [("[]", False), ("[flip]", True)])
def test_what_is_held_out_is_neither_trained_nor_adapted_on(folders, tmp_path, monkeypatch, augment, is_mirrored):
    more = ("data.image_size=16", "data.held_out=0.5", f"data.augment={augment}", "train.steps=4")
    config, seen = own(folders[2], *more), []
    images = build_images(config)
    pictures = to_unit_range(images.read(np.arange(images.num_images))).numpy()
    allowed = {picture.tobytes() for picture in pictures}
    mirrored = {picture[:, ::-1].tobytes() for picture in pictures} - allowed

    def noting_train_step(model, x, label):
        tf.py_function(lambda x: seen.extend(x.numpy()), [x], [])
        return train_step(model, x, label)

    def adapt(self, batches):
        batches = list(batches)
        seen.extend(picture.numpy() for (x,) in batches for picture in x)
        return original_adapt(self, batches)

    original_adapt = bd.DiffusionModel.adapt
    monkeypatch.setattr("tf_blurdiff.training.loop.train_step", noting_train_step)
    monkeypatch.setattr(bd.DiffusionModel, "adapt", adapt)
    train(config, tmp_path, verbose=False)
    seen = {picture.tobytes() for picture in seen[:20]}, {picture.tobytes() for picture in seen[20:]}
    assert len(mirrored) > 15 and seen[0] <= allowed and seen[1] <= allowed | mirrored
    assert bool(seen[1] & mirrored) == is_mirrored and seen[1] & allowed


@pytest.mark.slow
def test_a_run_with_crops_goes_on_exactly(folders, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ["data.image_size=16", "data.augment=[flip,crop]"]
    train(own(folders[2], *more), whole, verbose=False)
    train(own(folders[2], *more, "train.steps=8"), cut, verbose=False)
    train(own(folders[2], *more), cut, verbose=False)
    assert_same_weights(whole, cut)
    plain = tmp_path / "plain"
    train(own(folders[2], "data.image_size=16", "data.augment=[flip]"), plain, verbose=False)
    with pytest.raises(AssertionError):
        assert_same_weights(whole, plain)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.slow
def test_a_run_keeps_size_and_classes_when_pictures_come(run, folders, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    root = tmp_path / "pictures"
    shutil.copytree(folders[1], root, symlinks=True)
    (root / "sandals").mkdir()
    shutil.copy(root / "top.jpg", root / "sandals")
    # Of another root it would be another config.
    text = (tmp_path / "run" / "config.yaml").read_text().replace(str(folders[1]), str(root))
    (tmp_path / "run" / "config.yaml").write_text(text)
    config = own(root, "data.labels=folders", "model.label_dropout=0.2", "train.steps=13")
    assert train(config, tmp_path / "run", verbose=False).class_names == ("boots", "hats", "shoes")
    with pytest.raises(UserError, match=r"data.image_size \(64 there, 16 here\)"):
        train(config.model_copy(update={"data": config.data.model_copy(update={"image_size": 16})}), tmp_path / "run")


@pytest.mark.slow
def test_a_warm_up_that_is_longer_than_the_run_is_told_of(tmp_path, capsys):
    config = load_config("digits", [*SETTINGS, "train.steps=20", "train.warmup_steps=21", "train.decay_steps=null"])
    train(config, tmp_path)
    assert (
        "train.warmup_steps: got 21, expected at most 20, which is train.steps: the learning rate does not reach "
        "train.learning_rate; 2 would do"
    ) in capsys.readouterr().out.splitlines()
