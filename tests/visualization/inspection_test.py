import keras
import numpy as np
import pytest
from keras import ops
from scipy.fft import dctn, idctn

import tf_blurdiff as bd
from tests.support.models import PROCESSES, images, make, randomized, small_network
from tf_blurdiff.errors import UserError
from tf_blurdiff.visualization import inspection


def _of_diffusion(image, alpha, sigma, eps):
    return idctn(alpha * dctn(image, norm="ortho"), norm="ortho") + sigma * eps


@pytest.mark.parametrize("name", PROCESSES)
def test_a_diffused_picture_is_blurred_and_has_the_same_noise_at_all_times(name):
    # A picture so faint that nothing is clipped, but for noise beyond two standard deviations.
    process, image, times = PROCESSES[name], 0.3 * images(1)[0], [0.0, 0.4, 0.7]
    pictures = inspection.diffused(process, image, times)
    assert pictures.dtype == np.uint8
    eps = np.random.default_rng(0).normal(size=(8, 8))
    alpha, sigma = process.alpha_sigma(np.float32(times), 8, 8)
    for number in range(3):
        alone = inspection.diffused(process, image, times[number : number + 1])[0]
        np.testing.assert_array_equal(alone, pictures[number])
        z_t = _of_diffusion(image[..., 0], alpha[number, ..., 0], sigma[number, 0, 0, 0], eps)
        expected = np.clip(127.5 * (z_t + 1), 0, 255)
        np.testing.assert_allclose(pictures[number, ..., 0], expected, atol=0.51)


def test_curves_are_the_closed_form_of_blurring():
    width, sigma_blur_max, min_gain = 12, 3.0, 0.01
    of = inspection.curves(bd.process.blurring(sigma_blur_max, min_gain), width, num_times=11)
    assert of.frequencies.tolist() == [0, 1, 2, 4, 8, 11]
    t = np.linspace(0.0, 1.0, 11)
    start = np.arctan(np.exp(-5.0))
    angle = start + (np.pi / 2 - 2 * start) * t
    np.testing.assert_allclose(of.times, t, atol=1e-6)
    np.testing.assert_allclose(of.a_t, np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(of.sigma_t, np.sin(angle), atol=1e-5)
    blur_sigma = sigma_blur_max * np.sin(np.pi * t / 2) ** 2
    np.testing.assert_allclose(of.blur_sigma, blur_sigma, atol=1e-5)
    eigenvalues = (np.pi * of.frequencies / width) ** 2
    gain = (1 - min_gain) * np.exp(-0.5 * eigenvalues * blur_sigma[:, None] ** 2) + min_gain
    log_alpha_squared = 2 * np.log(gain * np.cos(angle)[:, None])
    np.testing.assert_allclose(of.log_alpha_squared, log_alpha_squared, atol=1e-3)
    np.testing.assert_allclose(of.logsnr, log_alpha_squared - 2 * np.log(np.sin(angle))[:, None], atol=1e-3)


def test_curves_count_pixels_and_show_the_absence_of_noise():
    of = inspection.curves(bd.process.cold(sigma_blur_max=0.5), width=32)
    assert of.blur_sigma[-1] == pytest.approx(16.0, rel=1e-5)
    assert np.isposinf(of.logsnr).all() and np.isfinite(of.log_alpha_squared).all()


def test_the_families_are_the_presets():
    assert list(inspection.families()) == ["gaussian", "blurring", "heat_dissipation", "cold"]
    for name, process in inspection.families().items():
        assert process.get_config() == getattr(bd.process, name)().get_config()


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_estimate_is_the_one_that_a_step_is_made_with(prediction):
    model = randomized(make(prediction=prediction))
    seeds, num_steps = [3, 4], 6
    z_t = model.sample(seeds, num_steps, "ddim", grid="uniform", return_trajectory=True)
    for i in range(num_steps):
        t, s = 1 - i / num_steps, 1 - (i + 1) / num_steps
        x0_hat = inspection.estimated_x0(model, z_t[i], t, np.zeros(2, np.int64)).numpy()
        alpha, sigma = (np.asarray(each, np.float64) for each in model.process.alpha_sigma(np.float32([t, s]), 8, 8))
        for z_from, z_to, x0 in zip(z_t[i, ..., 0], z_t[i + 1, ..., 0], x0_hat[..., 0]):
            u_t, x0_freq = dctn(z_from, norm="ortho"), dctn(x0, norm="ortho")
            eps = (u_t - alpha[0, ..., 0] * x0_freq) / sigma[0].item()
            expected = idctn(alpha[1, ..., 0] * x0_freq + sigma[1].item() * eps, norm="ortho")
            np.testing.assert_allclose(z_to, expected, atol=2e-3)


def test_a_trajectory_shows_evenly_chosen_steps_and_their_estimates():
    model = randomized(make())
    way = inspection.trajectory(model, [3, 4, 5], num_times=4, num_steps=6, sampler="ancestral", grid="uniform")
    z_t = model.sample([3, 4, 5], 6, "ancestral", grid="uniform", return_trajectory=True)
    np.testing.assert_allclose(way.times, 1 - np.arange(7) / 6, atol=1e-6)
    assert way.chosen.tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(way.z_t, np.clip(127.5 * (z_t + 1), 0, 255), atol=0.6)
    assert way.x0_hat.shape == (3, 3, 8, 8, 1)
    for place, i in enumerate([0, 2, 4]):
        expected = inspection.estimated_x0(model, z_t[i], way.times[i], np.zeros(3, np.int64)).numpy()
        np.testing.assert_allclose(way.x0_hat[place], np.clip(127.5 * (expected + 1), 0, 255), atol=0.6)


def test_a_trajectory_has_at_most_all_steps_and_no_estimate_by_level():
    model = randomized(make(process="heat_dissipation", prediction="less_blurred"))
    way = inspection.trajectory(model, [3], num_times=100)
    assert way.chosen.tolist() == list(range(7)) and way.x0_hat is None


def test_a_trajectory_goes_by_label():
    model = randomized(make(small_network(num_classes=3)))
    ways = {label: inspection.trajectory(model, [5], 3, [label], num_steps=2) for label in (0, 2)}
    assert (ways[0].x0_hat[0] != ways[2].x0_hat[0]).any()


@keras.saving.register_keras_serializable("tests")
class ExactForNormalPixels(keras.layers.Layer):
    """The best estimate of x0 from [z, t] if all pixels are independent and N(0, std^2)."""

    std = 0.3

    def call(self, inputs):
        z, t = inputs
        at_t = bd.process.gaussian().marginal(t, 8, 8)
        return at_t.alpha * self.std**2 * z / (ops.square(at_t.alpha * self.std) + ops.square(at_t.sigma))


@pytest.fixture(scope="module")
def exact_errors():
    inputs = [keras.Input((8, 8, 1)), keras.Input(())]
    network = keras.Model(inputs, ExactForNormalPixels()(inputs))
    model = make(network, "gaussian", prediction="x0")
    errors = inspection.solver_errors(model, [1, 2, 3], [10, 20, 40, 80], reference_steps=320)
    return model, errors


def test_the_reference_is_the_exact_solution(exact_errors):
    model, errors = exact_errors
    start = model.sample([1, 2, 3], 2, return_trajectory=True)[0].astype(np.float64)
    (alpha_1, alpha_0), (sigma_1, sigma_0) = (
        np.asarray(each, np.float64)[:, 0, 0, 0] for each in model.process.alpha_sigma(np.float32([1, 0]), 8, 8)
    )
    std = ExactForNormalPixels.std
    exact = start * np.sqrt(((alpha_0 * std) ** 2 + sigma_0**2) / ((alpha_1 * std) ** 2 + sigma_1**2))
    for error in (error for error in errors if error.num_steps == 20):
        sampled = model.sample([1, 2, 3], error.num_steps, error.sampler, grid=error.grid)
        expected = np.sqrt(np.mean((sampled - np.clip(exact, -1, 1)) ** 2))
        assert error.error == pytest.approx(expected, rel=0.03, abs=1e-5)


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("multistep2", 2), ("multistep3", 2)])
def test_errors_fall_with_the_order(exact_errors, sampler, order):
    errors = [(error.num_steps, error.error) for error in exact_errors[1] if error.sampler == sampler]
    counts, values = np.array(errors).T
    assert counts.tolist() == [10, 20, 40, 80]
    assert -np.polyfit(np.log(counts[1:]), np.log(values[1:]), 1)[0] > 0.85 * order


def test_errors_are_those_of_the_models_samples():
    model = randomized(make(process="cold", prediction="x0"))
    errors = inspection.solver_errors(model, [3, 4, 5, 6], [3], reference_steps=25, grid="quadratic")
    assert [error[:3] for error in errors] == [(name, "quadratic", 3) for name in ("heat", "cold", "cold_naive")]
    for error in errors:
        assert (error.reference, error.reference_steps) == (error.sampler, 25)
        few, many = (model.sample([3, 4, 5, 6], count, error.sampler, grid="quadratic", delta=0.0) for count in (3, 25))
        assert error.error == pytest.approx(float(np.sqrt(np.mean((few - many) ** 2))), rel=1e-3, abs=1e-6)


def test_solver_errors_say_what_is_allowed():
    with pytest.raises(UserError, match=r"below reference_steps \(20\). Received: 20"):
        inspection.solver_errors(make(), [0], [5, 20], 20)
    with pytest.raises(UserError, match="num_steps must be an integer of 1 or more"):
        inspection.solver_errors(make(), [0], [0], 20)
    with pytest.raises(UserError, match="goes from level to level"):
        inspection.solver_errors(make(process="cold", prediction="less_blurred"), [0], [5], 20)
    with pytest.raises(UserError, match="call adapt"):
        inspection.solver_errors(make(process="cold", prediction="x0"), [0], [5], 20)
