"""Through XLA everything is as without it: draws, a training step, and images."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support import commands
from tests.support.models import PREDICTED, SAMPLED, images, make, randomized, small_network
from tf_blurdiff import compilation
from tf_blurdiff.compilation import compiled
from tf_blurdiff.diffusion import samplers
from tf_blurdiff.diffusion.stateless_random import normal_by_seed, normal_rows, uniform_rows
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import learning
from tf_blurdiff.model.distillation import student_of
from tf_blurdiff.serving import export_savedmodel

SEEDS = np.array([0, 1, -5, 2**40 + 3, -(2**63), 2**63 - 1])
FAMILIES = ("gaussian", "blurring", "heat_dissipation", "cold")


def unet(**kwargs):
    return bd.UNet((8, 8, 1), channels=8, multipliers=(1,), num_res_blocks=1, **{"dropout": 0.0, **kwargs})


def one_of_each(cases):
    """Of (process, prediction, ...), each process with each of its predictions, and with each of its other values."""
    seen, chosen = set(), []
    for case in cases:
        pairs = {(case[0], value) for value in case[1:]}
        if case[0] in FAMILIES and not pairs <= seen:
            seen |= pairs
            chosen.append(case)
    return chosen


@pytest.mark.parametrize("gpus, choice, wanted", [([], "auto", False), (["GPU:0"], "auto", True), ([], "on", True)])
def test_whether_to_compile(gpus, choice, wanted, monkeypatch):
    monkeypatch.setattr(compilation.tf.config, "list_physical_devices", lambda kind: gpus)
    assert compilation.is_wanted(choice) is wanted
    assert not compilation.is_wanted("off")


def test_sampling_is_compiled_of_its_own_accord_where_it_calls_the_network_often(monkeypatch):
    monkeypatch.setattr(compilation.tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert [compilation.is_wanted("auto", calls) for calls in (20, 2999, 3000)] == [False, False, True]
    assert compilation.is_wanted("on", calls=1)


def test_a_choice_there_is_not_is_named():
    with pytest.raises(UserError, match="compile must be one of auto, on, off"):
        make().compile("sgd", jit_compile="yes")


def test_the_numbers_of_a_seed_are_tensorflows():
    for stream in (-2, 0, 2**40):
        pairs = tf.stack([SEEDS, np.full_like(SEEDS, stream)], axis=1)
        expected = [tf.random.stateless_normal((5, 3), pair, alg="philox") for pair in pairs]
        np.testing.assert_allclose(normal_by_seed(SEEDS, stream, (5, 3)), expected, atol=4e-6)


@pytest.mark.parametrize("draw, tolerance", [(normal_rows, 4e-6), (uniform_rows, 0.0)])
def test_a_compiled_draw_is_the_same(draw, tolerance, two_replicas):
    for seed in ([3, 5], [2**62, -7]):
        draw_rows = lambda seed=seed: draw(seed, (4, 7, 3))
        np.testing.assert_allclose(compiled(draw_rows)(), draw_rows(), atol=tolerance, rtol=0)
    parts = two_replicas.run(tf.function(lambda: compiled(draw_rows)()))
    whole = draw(seed, (8, 7, 3))
    np.testing.assert_allclose(
        tf.concat(two_replicas.experimental_local_results(parts), axis=0), whole, atol=tolerance, rtol=0
    )


CLUSTERED = """
import keras, numpy as np, tensorflow as tf
from tests.support.models import images, make, randomized
from tf_blurdiff.data import open_images, training_batches
from tf_blurdiff.model import learning
model = randomized(make())
batch = next(iter(training_batches(open_images("digits", 8, 1), 32, seed=0, flip=True)))
draw = lambda x: learning._drawn_time_and_noise(model, tf.constant([0, 1], tf.int64), x)
drawn = *tf.function(draw, autograph=False)(images(8)), model.sample(range(4), num_steps=3)
rng = np.random.default_rng(0)
model.network.set_weights([0.1 * rng.normal(size=weight.shape) for weight in model.network.get_weights()])
model.compile(keras.optimizers.SGD(0.1))
model.fit(images(32), batch_size=8, shuffle=False, verbose=0)
np.savez("drawn.npz", batch, *drawn, *model.network.get_weights())
"""


def test_what_is_never_clustered_says_so_of_every_operation():
    """Which TensorFlow's clustering looks at; the slow test lets it cluster."""
    draw = compilation.never_clustered(lambda x: tf.random.stateless_uniform([3], x) + 1.0)
    graph = tf.function(draw).get_concrete_function(tf.zeros(2, tf.int64)).graph
    drawing = [each for each in graph.get_operations() if each.type in ("StatelessRandomUniformV2", "AddV2")]
    assert len(drawing) >= 2 and not any(each.get_attr("_XlaCompile") for each in drawing)


@pytest.mark.slow
def test_clusters_of_the_environments_change_nothing(tmp_path):
    """With XLA's automatic clustering TensorFlow compiles what it likes."""
    for folder, flags in (("plain", ""), ("clustered", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit")):
        (tmp_path / folder).mkdir()
        environment = commands.environment(TF_XLA_FLAGS=flags, PYTHONPATH=str(commands.ROOT))
        subprocess.run([sys.executable, "-c", CLUSTERED], cwd=tmp_path / folder, env=environment, check=True)
    plain, clustered = (np.load(tmp_path / folder / "drawn.npz") for folder in ("plain", "clustered"))
    for name in plain:
        np.testing.assert_allclose(clustered[name], plain[name], atol=1e-5)


def test_only_what_is_compiled_knows_it():
    seen = []
    compiled(lambda: seen.append(compilation.is_compiling()) or tf.constant(0))()
    with pytest.raises(ZeroDivisionError):
        compiled(lambda: 1 // 0)()
    assert seen == [True] and not compilation.is_compiling()


def weights_after_steps(jit_compile, make_model, data, strategy=None):
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(0)
        model = randomized(make_model())
        model.compile(keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(8)
    model.fit(dataset, verbose=0)
    return [np.asarray(weight) for weight in model.weights], float(model.step_record.gradient_norm.result())


def assert_steps_are_the_same(make_model, data, strategy=None, atol=1e-6):
    plain, norm = weights_after_steps(False, make_model, data, strategy)
    through_xla, _ = weights_after_steps(True, make_model, data, strategy)
    assert norm > 1e-3
    for ours, theirs in zip(through_xla, plain):
        np.testing.assert_allclose(ours, theirs, atol=atol)


def with_rare_ones_slow(cases, usual):
    return [case if case in usual else pytest.param(*case, marks=pytest.mark.slow) for case in one_of_each(cases)]


@pytest.mark.parametrize("process, prediction", with_rare_ones_slow(PREDICTED, [("blurring", "preconditioned")]))
def test_a_compiled_step_is_the_same(process, prediction):
    assert_steps_are_the_same(lambda: make(process=process, prediction=prediction), images(8))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"dropout": 0.3}, {"dropout": 0.3, "rematerialize": True}])
def test_a_compiled_step_of_a_unet_is_the_same(arguments):
    data = images(8), np.arange(8) % 3
    assert_steps_are_the_same(lambda: make(unet(num_classes=3, **arguments), label_dropout=0.5), data)


@pytest.mark.slow
def test_compiled_steps_on_two_replicas_are_the_same(two_replicas):
    assert_steps_are_the_same(lambda: make(unet(dropout=0.3)), images(16), two_replicas)


# What a student is to predict is a difference of what its teacher says, divided by little: rounding is multiplied.
ATOL_OF_STUDENTS = 1e-5


def a_student():
    """Of a guided teacher with labels."""
    teacher = randomized(make(small_network(num_classes=3), prediction="v", label_dropout=0.1))
    return student_of(teacher, 2, guidance_scale=2.0, ema_decay=0.9)


@pytest.mark.slow
def test_a_students_compiled_step_is_the_same(two_replicas):
    data = images(16), np.arange(16) % 3
    assert_steps_are_the_same(a_student, data, atol=ATOL_OF_STUDENTS)
    assert_steps_are_the_same(a_student, data, two_replicas, atol=ATOL_OF_STUDENTS)


@pytest.mark.slow
def test_a_student_learns_on_two_replicas_as_on_one(two_replicas):
    data = images(16), np.arange(16) % 3
    one, _ = weights_after_steps(False, a_student, data, tf.distribute.get_strategy())
    two, _ = weights_after_steps(False, a_student, data, two_replicas)
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=ATOL_OF_STUDENTS)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [None, pytest.param(tf.distribute.MirroredStrategy, marks=pytest.mark.slow)])
def test_a_compiled_step_that_is_not_finite_changes_counts_alone(strategy):
    bad = np.full((8, 8, 8, 1), np.nan, "float32")
    strategy = tf.distribute.get_strategy() if strategy is None else strategy(["cpu:0"])

    def after(jit_compile, batches):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = make()
            model.compile(bd.optimizers.Adam(0.01), jit_compile=jit_compile)
        model.fit(np.concatenate(batches), batch_size=8, shuffle=False, verbose=0)
        counts = [int(count.numpy()) for count in (model.step_guard.skipped_steps, model.weight_averages.age)]
        weights = [weight.numpy() for weight in (*model.network.weights, *model.averages)]
        return weights, [moment.numpy() for moment in model.optimizer.variables[2:]], counts

    weights, moments, counts = after(True, [images(8), bad])
    assert counts == [1, 2]
    good_weights, good_moments, _ = after(True, [images(8)])
    for ours, theirs in zip(weights + moments, good_weights + good_moments, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(weights, after(False, [images(8), bad])[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_several_batches_are_added_when_compiled_too():
    def updated(jit_compile):
        keras.utils.set_random_seed(0)
        model = randomized(make())
        model.compile(keras.optimizers.SGD(1.0, gradient_accumulation_steps=2), jit_compile=jit_compile)
        model.fit(images(40), batch_size=8, shuffle=False, verbose=0)
        return [np.asarray(weight) for weight in model.weights]

    for ours, theirs in zip(updated(True), updated(False), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_float16_scales_its_loss_when_compiled_too():
    def guarded(jit_compile):
        model = make(unet(dtype="mixed_float16"))
        model.compile("sgd", jit_compile=jit_compile)
        model.fit(images(8), batch_size=8, verbose=0)
        return float(model.step_guard.loss_scale), int(model.step_guard.skipped_steps.value)

    assert guarded(True) == guarded(False)


@pytest.mark.slow
def test_what_is_computed_again_stays_so():
    """XLA merges equal expressions; what rematerialisation computes a second time must not be one of them."""

    def convolutions(rematerialize):
        model = make(unet(rematerialize=rematerialize))
        model.compile("sgd", jit_compile=True)
        step = compiled(lambda *given: learning._losses_and_gradients(model, *given))
        given = images(2), tf.constant([0.5, 0.6]), images(2), None, tf.constant([0, 0], tf.int64), tf.constant(1.0)
        text = step.experimental_get_compiler_ir(*map(_tensor, given))(stage="optimized_hlo")
        return text.count(" convolution(")

    assert convolutions(True) > convolutions(False) > 0


def _tensor(value):
    return None if value is None else tf.convert_to_tensor(value)


USUAL = [
    ("blurring", "eps", "ancestral2"),
    ("heat_dissipation", "less_blurred", "heat"),
]


@pytest.mark.parametrize("process, prediction, sampler", with_rare_ones_slow(SAMPLED, USUAL))
def test_compiled_images_are_the_same(process, prediction, sampler):
    model = randomized(make(process=process, prediction=prediction))
    plain, model.compiling = model.sample(SEEDS, sampler=sampler), "on"
    np.testing.assert_allclose(model.sample(SEEDS, sampler=sampler), plain, atol=1e-3)


@pytest.mark.slow
def test_compiled_images_of_a_unet_with_guidance_are_the_same():
    model = randomized(make(unet(num_classes=3), label_dropout=0.1))
    how = {"labels": np.arange(6) % 3, "guidance_scale": [0.0, 1.0, 2.0, 3.0, 1.0, 1.0], "num_steps": 4}
    plain, model.compiling = model.sample(SEEDS, **how), "on"
    np.testing.assert_allclose(model.sample(SEEDS, **how), plain, atol=1e-3)


def test_a_compiled_step_serves_any_number_of_steps(monkeypatch):
    """It is traced once, for a fixed number of times: for another number XLA would compile anew."""
    numbers_of_times = []

    def noting(function):
        return compiled(lambda *given: numbers_of_times.append(given[2].shape[0]) or function(*given))

    monkeypatch.setattr(samplers, "compiled", noting)
    model = randomized(make())
    model.compiling = "on"
    for num_steps in (3, 5, 9):
        model.sample(SEEDS, num_steps=num_steps)
    assert numbers_of_times == [3]  # Of the step's end, its start, and the start of the one before.


def test_an_export_is_never_compiled(tmp_path):
    model = randomized(make(small_network()))
    model.compiling = "on"
    export_savedmodel(model, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model" / "1"))
    functions = loaded.signatures["serving_default"].graph.as_graph_def().library.function
    assert functions and not any(function.attr["_XlaMustCompile"].b for function in functions)
