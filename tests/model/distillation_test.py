"""What a student learns: to land with one step where several steps of its teacher do."""

import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.diffusion.samplers_test import MEAN, STD, analytic_denoiser
from tests.support.models import images, make, randomized, small_network
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.denoiser import BOUND
from tf_blurdiff.model.distillation import Lesson, student_of

SIZE = (8, 8)
SAMPLERS = ("ddim", "multistep2")
PROCESSES = {"gaussian": bd.process.gaussian(), "blurring": bd.process.blurring(sigma_blur_max=4.0)}
STUDENT = {"sampler": "ddim", "num_steps": 4, "grid": "quadratic", "distilled_guidance": 2.0}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def marginal(process, *times):
    return process.marginal(np.array(times, "float32"), *SIZE)


def in_float64(at):
    return np.exp(np.asarray(at.log_alpha, np.float64)), np.exp(np.asarray(at.log_sigma, np.float64))


def exact_teacher(process):
    """Of Gaussian data, with the denoiser that is right."""
    denoiser = lambda z_freq, t, at_t, at_s, labels, scale: analytic_denoiser(z_freq, t, at_t, at_s)
    std = tf.constant(STD[0])
    return types.SimpleNamespace(process=process, image_shape=(*SIZE, 1), denoiser=denoiser, freq_std=std)


def step(process, x0_freq, z_freq, t, s):
    """Where a deterministic step with these images ends, in float64."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = in_float64(marginal(process, t)), in_float64(marginal(process, s))
    return alpha_s * x0_freq + sigma_s * (z_freq - alpha_t * x0_freq) / sigma_t


def exact_steps(process, z_freq, times):
    """Where deterministic steps of the exact denoiser end, in float64."""
    for t, s in itertools.pairwise(times):
        x0_freq = analytic_denoiser(z_freq, None, marginal(process, t), marginal(process, s)).x0_freq
        z_freq = step(process, np.asarray(x0_freq, np.float64), z_freq, t, s)
    return z_freq


def exact_flow(process, z_freq, t, s):
    """Where infinitely many end: as many deviations from its mean as before, in each frequency."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = in_float64(marginal(process, t)), in_float64(marginal(process, s))
    stretch = np.hypot(alpha_s * STD, sigma_s) / np.hypot(alpha_t * STD, sigma_t)
    return alpha_s * MEAN + stretch * (z_freq - alpha_t * MEAN)


@every_process
@pytest.mark.parametrize("num_steps, steps_in_one", [(1, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("grid, power", [("uniform", 1), ("quadratic", 2)])
def test_a_student_that_is_right_lands_where_the_exact_steps_do(rng, process, num_steps, steps_in_one, grid, power):
    lesson = Lesson(exact_teacher(process), num_steps, steps_in_one, grid=grid)
    times = np.linspace(1.0, 0.0, steps_in_one * num_steps + 1) ** power
    z_freq = rng.normal(size=(num_steps, *SIZE, 1)).astype("float32")
    landings = lesson.landing(tf.constant(z_freq), tf.constant(times[:-1:steps_in_one], tf.float32))
    for row in range(num_steps):
        own = times[row * steps_in_one :][: steps_in_one + 1]
        np.testing.assert_allclose(landings[row], exact_steps(process, z_freq[row], own)[0], atol=2e-5)


def published_image(process, z_t, z_s, t, s):
    """Salimans and Ho, 2022, appendix G: the image with which a step from one state ends at the other, in float64."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = in_float64(marginal(process, t)), in_float64(marginal(process, s))
    return (z_s - sigma_s / sigma_t * z_t) / (alpha_s - sigma_s / sigma_t * alpha_t)


@every_process
@pytest.mark.parametrize("t, s", [(1.0, 0.75), (0.75, 0.5), (0.25, 0.0)])
def test_the_published_image_is_without_error_in_each_frequency(rng, process, t, s):
    z_freq = rng.normal(size=(4, *SIZE, 1)).astype("float32")
    landing = exact_steps(process, z_freq, [t, 0.5 * (t + s), s])
    image = published_image(process, z_freq, landing, t, s).astype("float32")
    lesson = Lesson(exact_teacher(process), 4, grid="uniform")
    error = lesson.error(tf.constant(image), tf.constant(z_freq), tf.fill([4], t))
    assert np.max(np.abs(error)) < 1e-4


@every_process
@pytest.mark.parametrize("t, s", [(0.75, 0.5), (0.25, 0.0)])
def test_an_error_is_what_the_exact_flow_makes_of_it_in_the_image_over_the_root_of_the_deviation(rng, process, t, s):
    lesson = Lesson(exact_teacher(process), 4, grid="uniform")
    x0_freq, z_freq = rng.normal(size=(2, 3, *SIZE, 1)).astype("float32")
    error = lesson.error(tf.constant(x0_freq), tf.constant(z_freq), tf.fill([3], t))
    landings = step(process, x0_freq, z_freq, t, s), np.asarray(lesson.landing(tf.constant(z_freq), tf.fill([3], t)))
    images = [exact_flow(process, landing, s, 0.0) for landing in landings]
    np.testing.assert_allclose(error, (images[0] - images[1]) / np.sqrt(STD), rtol=0.03, atol=0.02)


def test_times_are_the_starts_of_the_students_steps_each_as_often():
    lesson = Lesson(exact_teacher(PROCESSES["gaussian"]), 4, grid="uniform")
    times = lesson.time(tf.linspace(0.0, 0.9999, 1000)).numpy()
    assert dict(zip(*np.unique(times, return_counts=True))) == {0.25: 250, 0.5: 250, 0.75: 250, 1.0: 250}


@every_process
@pytest.mark.parametrize("t", [1.0, 0.75, 0.5, 0.25])
def test_four_steps_of_second_order_end_nearer_to_the_exact_flow(rng, process, t):
    z_freq = rng.normal(size=(3, *SIZE, 1)).astype("float32")
    exact = exact_flow(process, z_freq, t, t - 0.25)
    lessons = [Lesson(exact_teacher(process), 4, 4, grid="uniform", sampler=sampler) for sampler in SAMPLERS]
    first, second = (
        np.mean((np.asarray(lesson.landing(tf.constant(z_freq), tf.fill([3], t))) - exact) ** 2) for lesson in lessons
    )
    assert second < 0.5 * first


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_guided_teacher_teaches_where_it_goes_itself(scale, sampler):
    model = randomized(make(small_network(num_classes=3), label_dropout=0.1))
    labels = np.array([0, 1, 2])
    how = {"labels": labels, "guidance_scale": scale, "sampler": sampler, "num_steps": 2, "grid": "uniform"}
    start, _, end = (tf.constant(bd.dct2(z)) for z in model.sample(range(3), return_trajectory=True, **how))
    lesson = Lesson(model, 1, guidance_scale=scale, grid="uniform", sampler=sampler)
    landing = lesson.landing(start, tf.ones([3]), tf.constant(labels))
    np.testing.assert_allclose(landing, end, atol=1e-4)


@pytest.mark.parametrize(
    "process, settings, sampler",
    [
        (bd.process.blurring(), {}, "multistep2"),
        (bd.process.blurring(min_gain=0.0), {}, "ddim"),
        (bd.process.blurring(), STUDENT, "ddim"),
    ],
    ids=["model", "some frequencies vanish", "student"],
)
def test_a_model_teaches_in_steps_of_second_order_where_it_can_and_a_student_in_its_own(process, settings, sampler):
    teacher = bd.DiffusionModel(small_network(), process, "x0", image_shape=(*SIZE, 1), **settings)
    assert student_of(teacher, 2).lesson.sampler == sampler


def test_a_u_net_learns_without_dropout():
    network = bd.UNet((*SIZE, 1), channels=4, multipliers=[1], num_res_blocks=1, attention_resolutions=[], dropout=0.3)
    teacher = make(network)
    teacher.adapt([(np.zeros((2, 8, 8, 1), "float32"),)])
    assert student_of(teacher, 2).network.dropout == 0 and teacher.network.dropout == 0.3


def test_a_u_net_that_computes_again_can_be_a_teacher():
    """With dropout it has the state of a generator of seeds, and its student has none."""
    network = bd.UNet((*SIZE, 1), channels=4, multipliers=[1], num_res_blocks=1, dropout=0.3, rematerialize=True)
    teacher = randomized(make(network))
    for ours, theirs in zip(student_of(teacher, 2).averages, teacher.averages, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_process
def test_a_student_goes_where_its_own_estimate_leads(process):
    """Of eps too, whose estimates are shrunk in a model that is no student."""
    how = {"sampler": "ddim", "num_steps": 1, "grid": "uniform", "distilled_guidance": 1.0}
    model = bd.DiffusionModel(small_network(), process, "eps", image_shape=(*SIZE, 1), **how)
    start, end = randomized(model).sample(range(3), return_trajectory=True)
    output = model.ema_call([tf.constant(start), tf.ones([3])])
    places = marginal(process, 1.0), marginal(process, 0.0)
    x0_freq = model.own_prediction.estimate(bd.dct2(output), bd.dct2(start), *places).x0_freq
    mean, bound = np.asarray(model.freq_mean), BOUND * np.asarray(model.freq_std)
    bounded = np.clip(x0_freq, mean - bound, mean + bound)
    np.testing.assert_allclose(bd.dct2(end), step(process, bounded, bd.dct2(start), 1.0, 0.0), atol=1e-3)


def test_a_student_calls_its_network_once_a_step_where_labels_can_be_left_out():
    teacher = randomized(make(small_network(num_classes=3), label_dropout=0.1))
    assert teacher.denoiser.no_label == 3 and student_of(teacher, 2, guidance_scale=2.0).denoiser.no_label is None


@pytest.fixture(scope="module")
def student():
    return randomized(make(small_network(num_classes=3), label_dropout=0.1, **STUDENT))


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"num_steps": 5}, "distilled for 4 steps of ddim on the grid quadratic: num_steps must be 4"),
        ({"sampler": "ancestral"}, "sampler must be ddim"),
        ({"grid": "uniform"}, "grid must be quadratic"),
        ({"eta": 0.5}, "distilled for steps without noise: eta must be 0. Received: 0.5"),
        ({"guidance_scale": 3.0}, "distilled at guidance scale 2, which is in its weights"),
    ],
)
def test_a_student_samples_as_it_was_taught_alone(student, asked, message):
    with pytest.raises(UserError, match=message):
        student.sample([0, 1], labels=[0, 1], **asked)


def test_a_student_samples_restores_and_is_saved_as_any_model(student, tmp_path):
    images = student.sample([0, 1], labels=[0, 1], num_steps=4)
    student.save(tmp_path / "student.keras")
    loaded = bd.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.sample([0, 1], labels=[0, 1]), images, atol=1e-6)
    assert loaded.distilled_guidance == 2.0 and loaded.averaged().distilled_guidance == 2.0
    assert student.deblur(images, 1.0, labels=[0, 1]).shape == images.shape
    # From the nearest of its times on, 0.5625 or 0.25, and no other between them.
    for strength, num_states in ((0.45, 4), (0.4, 3)):
        how = {"images": images, "strength": strength, "return_trajectory": True}
        assert len(student.sample([0, 1], labels=[0, 1], **how)) == num_states


def test_a_student_bounds_no_likelihood(student):
    with pytest.raises(UserError, match="bounds no likelihood"):
        student.bits_per_dimension(np.zeros((2, 8, 8, 1), "float32"), labels=[0, 1])


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"steps_in_one": 0}, "steps_in_one must be an integer of 2 or more, below 2.31. Received: 0"),
        ({"steps_in_one": 2.5}, "steps_in_one must be an integer of 2 or more"),
        ({"grid": "logsnr"}, "grid must be one of quadratic, uniform. Received: 'logsnr'"),
        ({"guidance_scale": 3.0}, "guidance_scale 3.0 needs a model that was trained with labels"),
    ],
)
def test_a_student_of_what_cannot_be_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        student_of(make(), 4, **asked)


def test_a_student_of_a_guided_student_has_no_other_guidance():
    student = student_of(make(small_network(3), label_dropout=0.1), 4, guidance_scale=2.0)
    assert student_of(student, 2).distilled_guidance == 2.0
    with pytest.raises(UserError, match=r"was distilled at guidance scale 2, .* Received: 1\.5"):
        student_of(student, 2, guidance_scale=1.5)


def test_a_student_without_its_teacher_learns_nothing_else(tmp_path):
    student = student_of(randomized(make()), 4)
    student.compile("sgd")
    loss = student.evaluate(images(8), batch_size=8, verbose=0)
    student.save(tmp_path / "student.keras")
    loaded = bd.load_model(tmp_path / "student.keras")
    loaded.compile("sgd")
    for call in (loaded.fit, loaded.evaluate):
        with pytest.raises(UserError, match=r"a distilled model learns from its teacher, .*tf_blurdiff\.distill"):
            call(images(8), batch_size=8, verbose=0)
    assert np.isfinite(loss) and loaded.sample([1]).shape == (1, 8, 8, 1)
