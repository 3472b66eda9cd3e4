"""What a student learns: the image with which one step lands where several steps of its teacher do."""

import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.diffusion.samplers_test import analytic_denoiser
from tests.support.models import make, randomized, small_network
from tf_blurdiff.diffusion.predictions import eps_from_x0
from tf_blurdiff.errors import UserError
from tf_blurdiff.model.distillation import Lesson, image_of_step

SIZE = (8, 8)
PROCESSES = {"gaussian": bd.process.gaussian(), "blurring": bd.process.blurring(sigma_blur_max=4.0)}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def marginal(process, *times):
    return process.marginal(np.array(times, "float32"), *SIZE)


def in_float64(at):
    return np.exp(np.asarray(at.log_alpha, np.float64)), np.exp(np.asarray(at.log_sigma, np.float64))


@every_process
@pytest.mark.parametrize("t, s", [(1.0, 0.5), (0.5, 0.25), (0.25, 0.0), (0.6, 0.59)])
def test_the_image_of_a_step_with_a_known_image_is_that_image(rng, process, t, s):
    x0_freq, eps_freq = rng.normal(size=(2, 16, *SIZE, 1))
    at_t, at_s = marginal(process, t), marginal(process, s)
    states = [alpha * x0_freq + sigma * eps_freq for alpha, sigma in map(in_float64, (at_t, at_s))]
    found = image_of_step(*(tf.constant(state, tf.float32) for state in states), at_t, at_s)
    # What rounding of the states, 1e-7, comes to: much where nothing is left of the image at t and little at s.
    alpha_s, _ = in_float64(at_s)
    fall = -np.expm1(0.5 * np.asarray(at_t.logsnr - at_s.logsnr, np.float64))
    assert np.max(np.abs(found - x0_freq) * alpha_s * fall) < 2e-6


def test_without_blur_it_is_the_published_formula(rng):
    process = PROCESSES["gaussian"]
    at_t, at_s = marginal(process, 0.75), marginal(process, 0.5)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = in_float64(at_t), in_float64(at_s)
    z_t, z_s = rng.normal(size=(2, 4, *SIZE, 1))
    published = (z_s - sigma_s / sigma_t * z_t) / (alpha_s - sigma_s / sigma_t * alpha_t)
    found = image_of_step(tf.constant(z_t, tf.float32), tf.constant(z_s, tf.float32), at_t, at_s)
    np.testing.assert_allclose(found, published, rtol=1e-5, atol=1e-5)


def exact_teacher(process):
    """Of Gaussian data, with the denoiser that is right."""
    denoiser = lambda z_freq, t, at_t, at_s, labels, scale: analytic_denoiser(z_freq, t, at_t, at_s)
    return types.SimpleNamespace(process=process, image_shape=(*SIZE, 1), denoiser=denoiser)


def exact_step(process, z_freq, t, s):
    """A deterministic step of the exact denoiser, in float64."""
    at_t, at_s = marginal(process, t), marginal(process, s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = in_float64(at_t), in_float64(at_s)
    x0_freq = np.asarray(analytic_denoiser(z_freq, None, at_t, at_s).x0_freq, np.float64)
    return alpha_s * x0_freq + sigma_s * (z_freq - alpha_t * x0_freq) / sigma_t


@every_process
@pytest.mark.parametrize("num_steps, steps_in_one", [(1, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("grid, power", [("uniform", 1), ("quadratic", 2)])
def test_a_student_that_is_right_lands_where_the_exact_steps_do(rng, process, num_steps, steps_in_one, grid, power):
    lesson = Lesson(exact_teacher(process), num_steps, steps_in_one, grid=grid)
    times = np.linspace(1.0, 0.0, steps_in_one * num_steps + 1) ** power
    z_freq = rng.normal(size=(num_steps, *SIZE, 1)).astype("float32")
    images = lesson.image(tf.constant(z_freq), tf.constant(times[:-1:steps_in_one], tf.float32))
    for row in range(num_steps):
        own = times[row * steps_in_one :][: steps_in_one + 1]
        landing = z_freq[row : row + 1]
        for t, s in itertools.pairwise(own):
            landing = exact_step(process, landing, t, s)
        at_t, at_s = marginal(process, own[0]), marginal(process, own[-1])
        image = images[row : row + 1]
        eps_freq = eps_from_x0(image, z_freq[row : row + 1], at_t)
        np.testing.assert_allclose(at_s.alpha * image + at_s.sigma * eps_freq, landing, atol=2e-5)


def test_times_are_the_starts_of_the_students_steps_each_as_often():
    lesson = Lesson(exact_teacher(PROCESSES["gaussian"]), 4)
    times = lesson.time(tf.linspace(0.0, 0.9999, 1000)).numpy()
    assert dict(zip(*np.unique(times, return_counts=True))) == {0.25: 250, 0.5: 250, 0.75: 250, 1.0: 250}


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_guided_teacher_teaches_where_it_goes_itself(scale):
    model = randomized(make(small_network(num_classes=3), label_dropout=0.1))
    labels = np.array([0, 1, 2])
    how = {"labels": labels, "guidance_scale": scale, "sampler": "ddim", "num_steps": 2, "grid": "uniform"}
    start, _, end = (tf.constant(bd.dct2(z)) for z in model.sample(range(3), return_trajectory=True, **how))
    image = Lesson(model, 1, guidance_scale=scale).image(start, tf.ones([3]), tf.constant(labels))
    at_t, at_s = marginal(model.process, 1.0), marginal(model.process, 0.0)
    landing = at_s.alpha * image + at_s.sigma * eps_from_x0(image, start, at_t)
    np.testing.assert_allclose(landing, end, atol=1e-4)


@pytest.fixture(scope="module")
def student():
    settings = {"sampler": "ddim", "num_steps": 4, "grid": "quadratic", "distilled_guidance": 2.0}
    return randomized(make(small_network(num_classes=3), label_dropout=0.1, **settings))


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
