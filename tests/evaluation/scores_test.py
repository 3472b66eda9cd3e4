"""Evaluation: the scores are those of the metrics on all images, from files and a cache that can be trusted."""

import contextlib
import dataclasses
import hashlib
import json
import re
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import commands
from tests.support.models import make, randomized, small_network
from tf_blurdiff.data.pixels import to_unit_range
from tf_blurdiff.data.sources import Images, open_images
from tf_blurdiff.devices import Devices
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation import reference
from tf_blurdiff.evaluation.candidates import SampleSettings, draw_samples, open_candidates
from tf_blurdiff.evaluation.features import open_features
from tf_blurdiff.evaluation.metrics import frechet_distance, kernel_distance, precision_recall
from tf_blurdiff.evaluation.provenance import describe_candidate
from tf_blurdiff.evaluation.reference import Reference, gather_features, real_features
from tf_blurdiff.evaluation.report import notes, score_table, write_report
from tf_blurdiff.evaluation.scores import NEIGHBOURS_OF, BoundSettings, score
from tf_blurdiff.model import load_model

ONE = Devices(tf.distribute.get_strategy(), in_step=False)
SHAPE = (8, 8, 1)
SAMPLES = SampleSettings(num_images=40, seed=5)
BOUND = BoundSettings(num_images=20, num_steps=10, num_times=5)


@pytest.fixture(scope="module")
def pixels():
    return open_features("pixels", SHAPE)


@pytest.fixture(scope="module")
def real():
    """The first 201 digits, as uint8 pixels, and the `Reference` of them."""
    digits = open_images("digits", image_size=8, channels=1)
    images, labels = digits.read(np.arange(201)).numpy(), digits.labels[:201]
    return images, Reference(Images(lambda indices: images[indices], 201, SHAPE, labels, 10))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.keras"
    randomized(make(num_steps=3)).save(path)
    return path


def in_order(real_):
    """All real images in the reference's order."""
    return np.concatenate(list(real_[1].batches()))


def rows(images):
    return sorted(map(bytes, images))


# The real images


def test_a_reference_is_every_image_once_in_random_order(real):
    images, ours = real
    assert rows(in_order(real)) == rows(images)
    assert not np.array_equal(in_order(real), images)
    np.testing.assert_array_equal(np.concatenate(list(ours.batches(70, 150))), in_order(real)[70:150])
    np.testing.assert_array_equal(ours.read([3, 200, 0]), in_order(real)[[3, 200, 0]])


def test_labels_go_with_the_images_and_start_again(real):
    images, ours = real
    label_of = dict(zip(map(bytes, images), ours.images.labels))
    expected = [label_of[bytes(image)] for image in in_order(real)]
    assert ours.labels(300).tolist() == [*expected, *expected[:99]]
    assert Reference(Images(None, 50, SHAPE)).labels(3) is None


def test_part_of_the_images_is_evenly_spaced():
    numbers = np.arange(1000, dtype=np.uint8).astype(np.uint8)
    part = Reference(
        Images(lambda indices: (indices // 10).astype(np.uint8)[:, None, None, None], 1000, (1, 1, 1)), 100
    )
    assert sorted(np.concatenate(list(part.batches())).ravel().tolist()) == list(range(100)) and len(numbers)


@pytest.mark.parametrize("change", ["pixel", "order", "count"])
def test_the_digest_is_of_every_pixel_in_its_place(real, change):
    images, ours = real
    changed = images.copy()
    if change == "pixel":
        changed[117, 3, 4, 0] ^= 1
    elif change == "order":
        changed[[5, 6]] = changed[[6, 5]]
    else:
        changed = changed[:-1]
    other = Reference(Images(lambda indices: changed[indices], len(changed), SHAPE))
    assert other.digest() != ours.digest() == ours.digest()


def test_the_nearest_images_are_those_of_a_sort(real, rng):
    queries = rng.integers(0, 256, (5, *SHAPE), np.uint8)
    distances = np.square(queries[:, None].astype(int) - in_order(real)[None]).sum((2, 3, 4))
    found = real[1].nearest(queries, 7)
    # Equal distances may come in any order.
    np.testing.assert_array_equal(np.take_along_axis(distances, found, 1), np.sort(distances, axis=1)[:, :7])


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    for number in range(50):
        Image.new("L", (9, 9), number).save(tmp_path / f"{number:02}.png")
    (tmp_path / "07.png").write_bytes(b"no picture")
    ours = Reference(open_images("image_folder", image_size=8, channels=1, root=str(tmp_path), max_corrupt=0))
    for read in (ours.digest, lambda: ours.read(np.arange(50))):
        with pytest.raises(UserError, match=r"data.max_corrupt: got 0, expected 1 or more, or sound files") as caught:
            read()
        assert "\n" not in str(caught.value)


# Their features


def test_kept_features_do_not_change_the_statistics(real, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "KEPT", 50)
    parts = real_features(real[1], "digest", pixels, 60, tmp_path)
    features = pixels.features(in_order(real))
    assert [part.statistics.count for part in parts] == [60, 141]
    np.testing.assert_allclose(parts.everything.statistics.covariance, np.cov(features.T), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts.everything.kept, features[parts.numbers_kept()], rtol=1e-6)
    assert parts.numbers_kept().tolist() == [*range(25), *range(60, 85)]


def test_features_are_computed_once_for_a_digest_a_network_and_a_size(real, pixels, tmp_path):
    calls = []

    def compute(images):
        calls.append(len(images))
        return pixels.compute(images)

    counted = dataclasses.replace(pixels, compute=compute)
    first = real_features(real[1], "a", counted, 60, tmp_path / "cache")
    assert sum(calls) == 201
    again = real_features(real[1], "a", counted, 60, tmp_path / "cache")
    assert sum(calls) == 201
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one.kept, other.kept)
        np.testing.assert_array_equal(one.statistics.covariance, other.statistics.covariance)
        np.testing.assert_array_equal(one.statistics.mean, other.statistics.mean)
    others = [("b", counted, 60), ("a", dataclasses.replace(counted, digest="other"), 60), ("a", counted, 61)]
    for number, other in enumerate(others, start=2):
        real_features(real[1], *other, tmp_path / "cache")
        assert sum(calls) == number * 201
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_damaged_cache_is_written_anew(real, pixels, tmp_path):
    whole = real_features(real[1], "a", pixels, 60, tmp_path)
    (path,) = tmp_path.iterdir()
    for content in (path.read_bytes()[:1000], b"", b"text"):
        path.write_bytes(content)
        np.testing.assert_array_equal(real_features(real[1], "a", pixels, 60, tmp_path).one.kept, whole.one.kept)
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_named(real, pixels, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache_dir .*file cannot be written: File exists"):
        real_features(real[1], "a", pixels, 60, tmp_path / "file")


# Scores


@pytest.fixture(scope="module")
def evaluated(real, pixels, model_file, tmp_path_factory):
    """(candidates, scored, what is known of the real images, the folder), of two samplers and two networks."""
    folder = tmp_path_factory.mktemp("evaluated")
    candidates = open_candidates([model_file], real[1], SAMPLES, ["ddim", "ancestral"])
    draw_samples(candidates, real[1], SAMPLES, folder, ONE)
    networks = [pixels, open_features("dct_energies", SHAPE)]
    return candidates, *score(candidates, real[1], networks, SAMPLES, folder, folder / "cache", bound=BOUND), folder


def drawn(folder, name):
    paths = [folder / "samples" / name / f"seed_{seed}.png" for seed in range(5, 45)]
    return np.stack([np.asarray(Image.open(path)) for path in paths])[..., None]


def test_scores_are_the_metrics_of_all_images(evaluated, real, pixels):
    candidates, scored, about_real, folder = evaluated
    assert [candidate.name for candidate in candidates] == ["small-ddim-3", "small-ancestral-3"]
    real_ones = in_order(real)
    for network in (pixels, open_features("dct_energies", SHAPE)):
        everything = network.features(real_ones)
        for each in scored:
            samples = network.features(drawn(folder, each.candidate.name))
            check_scores(each.figures["scores"][network.name], samples, everything)
        (floor,) = [each["floor"] for each in about_real["features"] if each["name"] == network.name]
        check_scores(floor, everything[:40], everything[40:])


def check_scores(scores, samples, real_ones):
    assert scores["sizes"] == scores["kept"] == [len(samples), len(real_ones)]
    np.testing.assert_allclose(scores["frechet"], frechet_distance(samples, real_ones), rtol=1e-6)
    kernel = kernel_distance(samples.astype(np.float32), real_ones.astype(np.float32))
    assert (scores["kernel"]["value"], scores["kernel"]["standard_error"]) == pytest.approx(kernel, rel=1e-6)
    assert (scores["precision"], scores["recall"]) == precision_recall(real_ones, samples)


def test_samples_are_those_of_the_model_and_are_made_once(evaluated, real):
    candidates, _, _, folder = evaluated
    model = candidates[0].model
    for sampler in ("ddim", "ancestral"):
        expected = (model.sample(range(5, 45), sampler=sampler) + 1) * 127.5
        np.testing.assert_allclose(drawn(folder, f"small-{sampler}-3"), expected, atol=1)
    path = folder / "samples" / "small-ddim-3" / "seed_7.png"
    before = path.stat().st_mtime_ns
    (folder / "samples" / "small-ddim-3" / "seed_8.png").unlink()
    draw_samples(candidates, real[1], SAMPLES, folder, ONE)
    assert path.stat().st_mtime_ns == before and drawn(folder, "small-ddim-3").shape[0] == 40


def test_bits_are_the_model_s_bound_of_the_first_real_images(evaluated, real):
    candidates, scored, _, _ = evaluated
    images = to_unit_range(in_order(real)[:20]).numpy()
    bound = candidates[0].model.bits_per_dimension(images, num_steps=10, num_times=5)
    bits = scored[0].figures["bits"]
    np.testing.assert_allclose(bits["total"], bound.total.mean(), rtol=1e-6)
    np.testing.assert_allclose(bits["standard_error"], bound.total.std(ddof=1) / np.sqrt(20), rtol=1e-5)
    np.testing.assert_allclose(sum(bits["spectrum"]), bits["prior"] + bits["diffusion"], rtol=1e-6)
    assert scored[1].figures["bits"] == bits


def test_copies_of_the_real_images_are_exposed(evaluated, real, pixels, tmp_path):
    candidates, folder = evaluated[0][:1], tmp_path / "samples" / "small-ddim-3"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text("{}")
    # From either part of the real images.
    copies = in_order(real)[::5][:40]
    for seed, image in enumerate(copies, start=5):
        Image.fromarray(image[..., 0]).save(folder / f"seed_{seed}.png")
    (scored,), about_real = score(
        candidates, real[1], [pixels], SAMPLES, tmp_path, tmp_path / "cache", ["precision_recall"]
    )
    scores, floor = scored.figures["scores"]["pixels"], about_real["features"][0]["floor"]
    assert scores["precision"] == 1.0 and scores["nearest"] < 1e-5
    features = pixels.features(in_order(real))
    distances = np.sqrt(np.square(features[:, None] - features[None]).sum(2) + np.diag(np.full(201, np.inf)))
    assert floor["nearest"] == pytest.approx(np.median(distances.min(axis=1)), rel=1e-4) and floor["nearest"] > 1.0
    np.testing.assert_array_equal(real[1].read(scored.neighbours["pixels"][:, 0]), copies[:NEIGHBOURS_OF])
    assert scored.figures["bits"] is None and "frechet" not in scores


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"process": "cold", "prediction": "x0", "num_steps": 3}, "does not end in noise"),
        ({"sampler": "ddim", "num_steps": 3, "grid": "uniform", "distilled_guidance": 1.0}, "a distilled model"),
    ],
    ids=["cold", "distilled"],
)
def test_some_models_have_no_bits(real, tmp_path, settings, reason):
    randomized(make(**settings)).save(tmp_path / "model.keras")
    candidates = open_candidates([tmp_path / "model.keras"], real[1], SAMPLES, metrics=["bits"])
    draw_samples(candidates, real[1], SAMPLES, tmp_path, ONE)
    (scored,), _ = score(candidates, real[1], [], SAMPLES, tmp_path, tmp_path, ["bits"], BOUND)
    assert reason in scored.figures["bits"]["none"]


def test_a_model_with_labels_has_no_bits_of_images_without(real, tmp_path):
    randomized(make(small_network(num_classes=10), num_steps=2)).save(tmp_path / "labels.keras")
    unlabelled = Reference(Images(lambda indices: real[0][indices], 201, SHAPE))
    candidates = open_candidates([tmp_path / "labels.keras"], unlabelled, SAMPLES)
    draw_samples(candidates, unlabelled, SAMPLES, tmp_path, ONE)
    (scored,), _ = score(candidates, unlabelled, [], SAMPLES, tmp_path, tmp_path, ["bits"], BOUND)
    assert scored.figures["bits"] == {"none": "the model has labels, and the real images have none"}
    assert scored.figures["labels"] == "in turn"


def test_bits_that_are_not_finite_are_said_to_be_so(evaluated, real, monkeypatch):
    candidates, _, _, folder = evaluated
    model = candidates[0].model
    bound = model.bits_per_dimension(to_unit_range(in_order(real)[:20]).numpy(), num_steps=10, num_times=5)
    infinite = bound._replace(total=np.where(np.arange(20) == 3, np.inf, bound.total))
    monkeypatch.setattr(type(model), "bits_per_dimension", lambda *_, **more: infinite)
    scored, _ = score(candidates, real[1], [], SAMPLES, folder, folder / "cache", ["bits"], BOUND)
    assert scored[0].figures["bits"] == {"none": "it is not finite"}


def test_models_can_be_scored_in_another_precision(real, pixels, model_file, tmp_path):
    samples = SAMPLES._replace(precision="mixed_bfloat16")
    candidates = open_candidates([model_file], real[1], samples)
    draw_samples(candidates, real[1], samples, tmp_path, ONE)
    scored, _ = score(candidates, real[1], [pixels], samples, tmp_path, tmp_path / "cache", metrics=["frechet"])
    assert scored[0].figures["precision"] == "mixed_bfloat16"
    model = load_model(model_file, "mixed_bfloat16")
    expected = (model.sample(range(5, 45)) + 1) * 127.5
    np.testing.assert_allclose(drawn(tmp_path, candidates[0].name), expected, atol=1)
    # Images in two precisions are not mixed.
    with pytest.raises(UserError, match="other"):
        draw_samples(open_candidates([model_file], real[1], SAMPLES), real[1], SAMPLES, tmp_path, ONE)


def test_labels_of_other_names_are_refused(real, tmp_path):
    names = [*"abcdefghij"]
    make(small_network(num_classes=10), class_names=names).save(tmp_path / "labels.keras")
    images, labels = real[0], real[1].images.labels
    for order, message in ((names, None), (names[::-1], "has label 0 for 'a'; the config's data for 'j': expected")):
        other = Reference(Images(lambda indices: images[indices], 201, SHAPE, labels, 10, class_names=order))
        with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
            open_candidates([tmp_path / "labels.keras"], other, SAMPLES)


def test_a_model_can_be_a_folder(real, tmp_path):
    """As Keras writes it for the Hugging Face Hub."""
    randomized(make(num_steps=2)).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        file.extractall(tmp_path / "model")
    candidates = open_candidates([tmp_path / "model"], real[1], SAMPLES, metrics=["frechet"])
    draw_samples(candidates, real[1], SAMPLES, tmp_path, ONE)
    weights = tmp_path / "model" / "model.weights.h5"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(b"those of a later checkpoint")
    assert describe_candidate(candidates[0], real[1], SAMPLES, tmp_path)["sha256"] == digest[:16]


def test_labels_are_as_often_as_among_the_real_images(real, tmp_path):
    randomized(make(small_network(num_classes=10), num_steps=2)).save(tmp_path / "labels.keras")
    candidates = open_candidates([tmp_path / "labels.keras"], real[1], SAMPLES)
    draw_samples(candidates, real[1], SAMPLES, tmp_path, ONE)
    labels = []
    for seed in range(5, 45):
        with Image.open(tmp_path / "samples" / "labels-ancestral2-2" / f"seed_{seed}.png") as image:
            labels.append(int(image.info["label"]))
    assert labels == real[1].labels(40).tolist()


def test_features_that_are_not_kept_still_count(rng, pixels):
    images = rng.integers(0, 256, (30, *SHAPE), np.uint8)
    features = gather_features(pixels, np.array_split(images, 4), keep=10)
    assert features.statistics.count == 30
    np.testing.assert_allclose(features.kept, pixels.features(images[:10]), rtol=1e-6)


# The report


def test_the_report_says_what_was_done(evaluated, real, tmp_path):
    _, scored, about_real, _ = evaluated
    as_json, as_html = write_report(scored, about_real, real[1], {"command": "a <b> & c"}, tmp_path)
    report, page = json.loads(as_json.read_text()), as_html.read_text()
    assert "a &lt;b&gt; &amp; c" in page and "<b>" not in page
    for name in re.findall('src="([^"]*)"', page):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 100, name
    assert len(re.findall("<img", page)) == 1 + 2 * 3
    model = report["models"][1]
    assert (model["sampler"], model["num_steps"], model["first_seed"], model["num_images"]) == ("ancestral", 3, 5, 40)
    assert (model["weights"], model["process"]) == ("averaged", "CosineNoise, SinSquaredBlur")
    titles, table = score_table(report)
    assert titles[2] == "Frechet distance" and [row[1] for row in table[:3]] == [
        "real",
        "small-ddim-3",
        "small-ancestral-3",
    ]
    assert float(table[1][2]) == pytest.approx(model_score(report, 0, "frechet"), rel=1e-3)
    assert all(cell in page for row in table for cell in row)
    assert not list(tmp_path.glob(".*"))


def model_score(report, number, name):
    return report["models"][number]["scores"]["pixels"][name]


@pytest.mark.parametrize("of, words", [(300, "than 1."), (1300, "than 1; copies of the 1,000 other images would")])
def test_a_report_says_among_how_many_images_copies_are_looked_for(of, words):
    network = {"name": "net", "is_fid": False, "num_features": 2, "floor": {"sizes": [100, 200]}, "kept": 300}
    real_ones = {"features": [network], "of": of}
    last = notes({"models": [{"num_images": 150}], "real": real_ones})[-1]
    assert "nearest of 300 real images" in last and words in last


def test_only_the_inception_graph_s_distance_is_called_fid():
    def report(is_fid, num_features):
        floor = {"sizes": [100, 200]}
        network = {"name": "net", "is_fid": is_fid, "num_features": num_features, "floor": floor, "kept": 300}
        return {"models": [{"num_images": 150}], "real": {"features": [network], "of": 300}}

    assert "are no FID" in notes(report(False, 20))[0]
    is_fid = notes(report(True, 20))[0]
    assert "is an FID" in is_fid and "50,000" in is_fid and "150" in is_fid
    singular = [any("singular" in note for note in notes(report(False, size))) for size in (99, 100)]
    assert singular == [False, True]


# Mistakes


MISTAKES = [
    (dict(samples=SampleSettings(19)), "num_images must be an integer of 20 or more, below 2.31. Received: 19"),
    (dict(paths=["nowhere.keras"]), "model file not found: nowhere.keras"),
    (dict(samplers=["heat"]), "sampler 'heat' needs"),
    (dict(nums_steps=[0]), "num_steps must be an integer of 1 or more"),
    (dict(metrics=["fid"]), "metrics must be some of frechet, kernel, precision_recall, bits. Received: fid"),
    (dict(metrics=[]), "metrics must be some of frechet, .* Received: none"),
    (
        dict(samples=SampleSettings(20, guidance_scale=2.0)),
        "guidance_scale 2.0 needs a model that was trained",
    ),
    (dict(samples=SampleSettings(20, eta=2.0)), r"eta must be in \[0, 1\]"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES)
def test_mistakes_are_found_before_anything_is_made(real, model_file, arguments, message):
    with pytest.raises(UserError, match=message):
        open_candidates(**{"paths": [model_file], "reference": real[1], "samples": SAMPLES, **arguments})


def test_models_of_other_images_are_refused(real, model_file, tmp_path):
    wide = Reference(Images(None, 50, (8, 16, 1)))
    with pytest.raises(UserError, match=r"makes images of shape \(8, 8, 1\); the config's data have \(8, 16, 1\)"):
        open_candidates([model_file], wide, SAMPLES)
    randomized(make(small_network(num_classes=3))).save(tmp_path / "three.keras")
    with pytest.raises(UserError, match=r"three.keras has 3 labels; the config's data have 10"):
        open_candidates([tmp_path / "three.keras"], real[1], SAMPLES)


def test_too_few_real_images_are_refused():
    with pytest.raises(UserError, match=r"the reference must have 40 images or more. Received: 39"):
        Reference(Images(None, 39, SHAPE))


# The command lines


def test_the_command_lines_train_a_classifier_and_evaluate(model_file, tmp_path):
    result = commands.call(
        "train_classifier", "--config", "digits.yaml", "--epochs", 1, "--out", "c.keras", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "of the held-out images" in result.stdout and "classifier: c.keras" in result.stdout
    arguments = ["--model", model_file, "--config", "digits.yaml", "--num_images", 30, "--cache_dir", "cache"]
    arguments += ["--features", "classifier:c.keras", "--features", "pixels", "--num_reference", 300]
    arguments += ["--bits_images", 4, "--bits_steps", 10, "--bits_times", 5, "--num_steps", 2, "--num_steps", 3]
    result = commands.call("evaluate", *arguments, "--out_dir", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "| classifier | small-ancestral2-2 |" in result.stdout and "report: out/report.html" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    about, real_images = report["about"], report["real"]
    assert (
        about["command"].startswith("python -m tf_blurdiff.evaluate --model ")
        and "300 of 1,797" in about["real images"]
    )
    assert {"date", "config sha256", "versions", "devices"} <= set(about)
    assert real_images["num_images"] == 300 and [model["num_steps"] for model in report["models"]] == [2, 3]


def test_the_held_out_part_can_be_the_reference(model_file, tmp_path):
    arguments = ["--model", model_file, "--config", "digits.yaml", "--num_images", 30, "--cache_dir", "cache"]
    arguments += ["--features", "pixels", "--metrics", "frechet", "--num_steps", 2]
    digests = {}
    for split, count in (("train", 1617), ("held_out", 180)):
        words = ["--set", "data.held_out=0.1", "--split", split, "--out_dir", split]
        result = commands.call("evaluate", *arguments, *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        report = json.loads((tmp_path / split / "report.json").read_text())
        assert report["real"]["num_images"] == count
        assert ("the held-out images" in report["about"]["config"]) == (split == "held_out")
        digests[split] = report["real"]["digest"]
    held_out = open_images("digits", image_size=8, channels=1, held_out=0.1).held_out
    assert Reference(held_out).digest() == digests["held_out"] != digests["train"]
    result = commands.call("evaluate", *arguments, "--split", "held_out", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "evaluate: --split held_out needs a config with data.held_out above 0. Received: dig"
    )


def test_a_mistake_is_one_line_and_status_2(tmp_path):
    arguments = ["--model", "nowhere.keras", "--config", "digits.yaml", "--cache_dir", "cache"]
    result = commands.call("evaluate", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    expected = (
        "expected a .keras file, a run directory that holds one, one of digits, digits_4, emoji, fashion_mnist, "
        "fashion_mnist_4, or hf://user/model"
    )
    assert result.stderr == f"evaluate: model file not found: nowhere.keras; {expected}\n"
