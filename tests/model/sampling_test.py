"""What an image depends on, and the ways to steer it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blurdiff as bd
from tests.support.models import images, make, randomized, small_network
from tf_blurdiff.diffusion.predictions import PREDICTIONS
from tf_blurdiff.diffusion.stateless_random import SeededNoise, normal_by_seed
from tf_blurdiff.model import interpolation
from tf_blurdiff.model.sampling import start_of

STEPS = 6
FAMILIES = [
    ("blurring", "eps", "multistep3"), ("heat_dissipation", "less_blurred", "heat"),
    *(pytest.param(each, marks=pytest.mark.slow) for each in [("gaussian", "v", "ancestral"), ("cold", "x0", "cold")]),
]  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family[0])
def model(request):
    """One of each family; the sampler is the model's own."""
    process, prediction, sampler = request.param
    return randomized(make(process=process, prediction=prediction, sampler=sampler, num_steps=STEPS))


@pytest.fixture(scope="module")
def guided():
    return randomized(make(small_network(num_classes=3), prediction="v", label_dropout=0.2, num_steps=STEPS))


def test_an_image_depends_on_its_seed_alone(model):
    together = model.sample([5, -3, 2**62, 0])
    np.testing.assert_allclose(model.sample([0, 2**62, 5]), together[[3, 2, 0]], atol=1e-4)
    np.testing.assert_allclose(model.sample([5, -3, 2**62, 0], batch_size=3), together, atol=1e-4)
    np.testing.assert_allclose(model.sample([5, -3, 2**62, 0], verbose=True), together, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_the_trajectory_goes_from_the_start_to_the_image(model):
    trajectory = model.sample([1, 2], return_trajectory=True)
    assert trajectory.shape == (STEPS + 1, 2, 8, 8, 1)
    np.testing.assert_allclose(np.clip(trajectory[-1], -1, 1), model.sample([1, 2]), atol=1e-4)
    start = model.reverse_process.start(SeededNoise(np.array([1, 2])), np.zeros(2, "int64"))
    np.testing.assert_allclose(trajectory[0], bd.idct2(start), atol=1e-5)


def test_a_process_that_ends_in_noise_starts_from_it():
    model = make()
    start = model.reverse_process.start(SeededNoise(np.array([1, 2])), np.zeros(2, "int64"))
    np.testing.assert_array_equal(start, normal_by_seed(np.array([1, 2]), 0, (8, 8, 1)))


def test_start_and_noise_have_seeds_of_their_own(model):
    base = model.sample([1, 2], return_trajectory=True)
    other_noise = model.sample([1, 2], noise_seeds=[3, 4], return_trajectory=True)
    np.testing.assert_allclose(other_noise[0], base[0], atol=1e-6)
    draws = model.sampler in ("ancestral", "heat")
    assert (np.abs(other_noise[-1] - base[-1]).max() > 1e-3) == draws
    same_noise = model.sample([3, 4], noise_seeds=[1, 2], return_trajectory=True)
    assert np.abs(same_noise[0] - base[0]).max() > 1e-3
    np.testing.assert_allclose(model.sample([1, 2], noise_seeds=[1, 2]), model.sample([1, 2]), atol=1e-5)


def test_interpolation_ends_in_both_seeds_images(model):
    between = model.interpolate(7, 8, num_images=4)
    np.testing.assert_allclose(between[[0, -1]], model.sample([7, 8]), atol=1e-3)
    steps = np.abs(np.diff(between, axis=0)).mean(axis=(1, 2, 3))
    assert (steps > 0).all() and steps.max() < 0.8 * np.abs(between[0] - between[-1]).mean()


def test_an_interpolated_start_keeps_its_spread():
    """On an arc between two normal draws the variance is 1 everywhere; on a line it would fall to a half."""
    model = make(num_steps=2)
    starts = model.interpolate(1, 2, num_images=5, return_trajectory=True)[0]
    np.testing.assert_allclose(starts.std(axis=(1, 2, 3)), 1.0, atol=0.25)
    np.testing.assert_allclose(starts[2], (starts[0] + starts[4]) / np.sqrt(2), atol=1e-5)


def test_mixed_bands_are_each_seeds_own(model):
    mixed = model.mix_bands([1, 1], [5, 6], cutoff=0.3, return_trajectory=True)[0]
    alone = model.sample([1, 5, 6], return_trajectory=True)[0]
    mixed, alone = bd.dct2(mixed).numpy(), bd.dct2(alone).numpy()
    low = np.sqrt(bd.laplacian_eigenvalues(8, 8)) < 0.3 * np.pi
    np.testing.assert_allclose(mixed[:, low], alone[[0, 0]][:, low], atol=1e-4)
    np.testing.assert_allclose(mixed[:, ~low], alone[[1, 2]][:, ~low], atol=1e-4)
    np.testing.assert_allclose(model.mix_bands([4], [4]), model.sample([4]), atol=1e-4)


def test_images_between_and_of_two_seeds_are_the_same_in_small_batches(model):
    x0, seeds = images(4, seed=3), [1, 2, 3, 4]
    ways = {
        "between": lambda **how: model.interpolate(7, 8, num_images=4, **how),
        "mixed": lambda **how: model.mix_bands(seeds, [5, 6, 7, 8], cutoff=0.3, **how),
        "from images": lambda **how: model.sample(seeds, images=x0, strength=0.5, **how),
    }
    for name, draw in ways.items():
        np.testing.assert_allclose(draw(batch_size=3), draw(), atol=1e-4, err_msg=name)


def test_mixed_images_are_drawn_with_the_noise_of_both_seeds(model):
    mixed, alone = model.mix_bands([5], [6], cutoff=0.3), model.sample([5], noise_seeds=[5])
    assert np.abs(mixed - alone).max() > 1e-3
    if model.sampler in ("ancestral", "heat"):
        start = model.mix_bands([5], [5], cutoff=0.3)
        assert np.abs(mixed - start).max() > 1e-3


def test_starts_without_noise_are_interpolated_along_a_line_and_noise_along_an_arc(monkeypatch):
    model = randomized(make(process="heat_dissipation"))
    monkeypatch.setattr(interpolation, "draw_images", lambda model, start, noise, **settings: (start, noise))
    start, noise = model.interpolate(1, 2, num_images=4)
    rows, share = slice(0, 4), np.linspace(0, 1, 4)[:, None, None, None]
    t, labels = np.ones(4, "float32"), np.zeros(4, "int64")
    first, last = (start_of(model, np.full(4, seed))(rows, labels, t) for seed in (1, 2))
    np.testing.assert_allclose(start(rows, labels, t), (1 - share) * first + share * last, atol=1e-5)
    first, last = (SeededNoise(np.full(4, seed)).draw(3, (8, 8, 1)) for seed in (1, 2))
    arc = np.cos(0.5 * np.pi * share) * first + np.sin(0.5 * np.pi * share) * last
    np.testing.assert_allclose(noise.draw(3, (8, 8, 1)), arc, atol=1e-5)


def test_each_band_has_the_noise_of_its_own_seed(monkeypatch):
    model = randomized(make())
    monkeypatch.setattr(interpolation, "draw_images", lambda model, start, noise, **settings: noise)
    drawn = model.mix_bands([1], [2], cutoff=0.3).draw(3, (8, 8, 1))
    coarse, detail = (SeededNoise(np.array([seed])).draw(3, (8, 8, 1)) for seed in (1, 2))
    low = (np.sqrt(bd.laplacian_eigenvalues(8, 8)) < 0.3 * np.pi)[:, :, None]
    np.testing.assert_allclose(drawn, np.where(low, coarse, detail), atol=1e-6)


@pytest.mark.parametrize("sampler", ["ancestral2", "multistep2", "multistep3"])
@pytest.mark.parametrize("strength, num_steps", [(1e-7, 5), (1e-30, 5), (1.0, 3000)])
def test_times_that_float32_cannot_tell_are_no_division_by_nothing(sampler, strength, num_steps):
    settings = {"sampler": sampler, "num_steps": num_steps, "grid": "quadratic"}
    x0 = images(2)
    drawn = randomized(make()).sample([1, 2], images=x0, strength=strength, **settings)
    assert np.isfinite(drawn).all()
    if strength < 1.0:  # Hardly any noise came.
        assert np.abs(drawn - x0).max() < 0.1


@pytest.mark.parametrize("limits", [(-30.0, 10.0), (-10.0, 80.0)])
@pytest.mark.parametrize("sampler", ["ancestral2", "multistep3", "ddim"])
def test_samples_at_the_limits_of_the_log_snr_are_numbers(limits, sampler):
    process = bd.process.blurring(sigma_blur_max=4.0, logsnr_min=limits[0], logsnr_max=limits[1])
    model = randomized(bd.DiffusionModel(small_network(), process, image_shape=(8, 8, 1)))
    for grid in ("uniform", "quadratic", "logsnr"):
        assert np.isfinite(model.sample([1, 2], 200, sampler, grid=grid)).all(), grid
    eight_bits = np.round((images(2) + 1) * 127.5) / 127.5 - 1
    bound = model.bits_per_dimension(eight_bits.astype("float32"), num_steps=200, num_times=20)
    assert np.isfinite(bound.total).all() and np.isfinite(bound.spectrum).all()


def test_given_images_are_where_sampling_starts(model):
    x0 = images(2, seed=3)
    trajectory = model.sample([1, 2], images=x0, strength=0.5, return_trajectory=True)
    by_level = PREDICTIONS[model.prediction].by_level
    assert len(trajectory) == (STEPS // 2 if by_level else STEPS) + 1
    eps = bd.idct2(normal_by_seed(np.array([1, 2]), 0, (8, 8, 1)))
    np.testing.assert_allclose(trajectory[0], model.process.diffuse(x0, np.full(2, 0.5, "float32"), eps), atol=1e-4)
    whole = model.sample([1, 2], images=x0, return_trajectory=True)[0]
    np.testing.assert_allclose(whole, model.process.diffuse(x0, np.ones(2, "float32"), eps), atol=1e-4)


def test_a_little_strength_changes_a_little():
    """With an exact network, which knows the image, whatever it is given."""
    x0 = images(2, seed=3)
    model = randomized(make(process="cold", prediction="x0"))
    model.ema_call = lambda inputs: x0
    np.testing.assert_allclose(model.sample([1, 2], images=x0, strength=0.4, num_steps=4), x0, atol=1e-4)


def test_guidance_is_its_formula():
    seeds, labels = [1, 2, 3], [0, 1, 2]
    guided = randomized(make(small_network(num_classes=3), prediction="v", label_dropout=0.2, num_steps=STEPS))
    guided.denoiser = guided.denoiser.unguarded()
    one_step = lambda **kwargs: guided.sample(seeds, num_steps=1, return_trajectory=True, **kwargs)[-1]
    # One step from t = 1 is linear in the network's output, as far as nothing is clipped.
    conditional, unconditional = one_step(labels=labels), one_step()
    expected = unconditional + np.array([0.0, 1.0, 2.5])[:, None, None, None] * (conditional - unconditional)
    result = one_step(labels=labels, guidance_scale=[0.0, 1.0, 2.5])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result / scale, expected / scale, atol=1e-4)
    assert np.abs(conditional - unconditional).max() > 1e-3 * scale


def test_guidance_is_each_images_own(guided):
    draw = lambda rows: guided.sample(
        np.array([1, 2, 3])[rows], labels=np.array([0, 1, 2])[rows], guidance_scale=np.array([1.0, 3.0, 0.5])[rows]
    )
    together = draw([0, 1, 2])
    for row in range(3):
        np.testing.assert_allclose(draw([row]), together[[row]], atol=1e-4)


def test_labels_reach_the_network(guided):
    a, b, none = (guided.sample([0], labels=labels) for labels in ([0], [1], None))
    assert min(np.abs(a - b).max(), np.abs(a - none).max()) > 1e-4


def test_every_step_draws_from_a_sequence_of_its_own(monkeypatch):
    streams = []

    def recorded(seeds, stream, shape):
        streams.append(int(stream))
        return normal_by_seed(seeds, stream, shape)

    monkeypatch.setattr("tf_blurdiff.diffusion.stateless_random.normal_by_seed", recorded)
    model = randomized(make(process="heat_dissipation", prediction="less_blurred"))
    tf.config.run_functions_eagerly(True)
    try:
        model.sample([0])
    finally:
        tf.config.run_functions_eagerly(False)
    # Start: its noise, the prior and the prior's choice; then a draw a step.
    assert len(streams) == len(set(streams)) == 3 + STEPS


@pytest.mark.parametrize(
    "process, arguments, labels",
    [
        pytest.param("heat_dissipation", {"prediction": "less_blurred"}, None, marks=pytest.mark.slow),
        # A plain Keras network does not save its num_classes.
        ("cold", {"prediction": "x0", "label_dropout": 0.1}, [2, 0]),
    ],
)
def test_a_saved_model_has_its_prior_and_its_labels(tmp_path, process, arguments, labels):
    model = randomized(make(small_network(num_classes=None if labels is None else 3), process, **arguments))
    model.save(tmp_path / "model.keras")
    copy = bd.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(copy.sample([1, 2], labels=labels), model.sample([1, 2], labels=labels), atol=1e-5)


MISTAKES = [
    ({"seeds": []}, "seeds must be a list of at least one integer"),
    ({"seeds": [0.5]}, "seeds must be a list of at least one integer"),
    ({"seeds": [2**64]}, "seeds must be a list of at least one integer"),
    ({"noise_seeds": [1, 2]}, "noise_seeds must be a list of 1 integers"),
    ({"sampler": "heun"}, "sampler must be one of"),
    ({"sampler": "heat"}, "sampler 'heat' needs a process that blurs without ending in noise"),
    ({"num_steps": 0}, "num_steps must be an integer of 1 or more"),
    ({"num_steps": 2.5}, r"num_steps must be an integer of 1 or more, below 2\^31. Received: 2.5"),
    ({"grid": "cubic"}, "grid must be one of uniform, quadratic, logsnr. Received: 'cubic'"),
    ({"sampler": "ddim", "eta": 1.5}, r"eta must be in \[0, 1\]. Received: 1.5"),
    ({"sampler": "ddim", "eta": "1"}, r"eta must be in \[0, 1\]. Received: '1'"),
    ({"sampler": "ancestral", "eta": 0.5}, "eta is for the sampler ddim; with ancestral it must be 0"),
    ({"delta": -1.0}, "delta must be a number of 0 or more"),
    ({"delta": 0.1}, "delta is for the sampler heat; with ancestral2 it must be 0"),
    ({"batch_size": -1}, "batch_size must be an integer of 1 or more"),
    ({"labels": [1]}, "has no labels"),
    ({"guidance_scale": 2.0}, "needs a model that was trained with labels and label_dropout > 0"),
    ({"strength": 0.5}, "strength is for images that are given"),
    ({"images": images(1), "strength": 0.0}, r"strength must be in \(0, 1\]"),
    ({"images": images(1), "strength": "0.5"}, r"strength must be in \(0, 1\]"),
    ({"images": np.nan * images(1)}, r"images must be floats in \[-1, 1\]"),
    ({"images": images(2)}, r"images must be floats in \[-1, 1\] of shape \(1, 8, 8, 1\)"),
    ({"images": 255 * images(1)}, r"images must be floats in \[-1, 1\]"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, message", MISTAKES)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make().sample(**{"seeds": [0], **arguments})


@pytest.mark.parametrize("labels", [[3], [-1], [0.5], [0, 1]])
def test_wrong_labels_are_named(guided, labels):
    with pytest.raises(ValueError, match="labels must be"):
        guided.sample([0], num_steps=1, labels=labels)


@pytest.mark.parametrize("guidance_scale", [-1.0, np.nan, [1.0, 2.0], "2"])
def test_wrong_guidance_scales_are_named(guided, guidance_scale):
    with pytest.raises(ValueError, match="guidance_scale must be 0 or more"):
        guided.sample([0], num_steps=1, labels=[0], guidance_scale=guidance_scale)


def test_a_model_by_level_has_one_number_of_steps():
    model = randomized(make(process="heat_dissipation", prediction="less_blurred"))
    with pytest.raises(ValueError, match="goes from level to level: num_steps must be 6 and grid uniform"):
        model.sample([0], num_steps=5)


def test_a_start_from_the_data_asks_for_the_data():
    model = make(process="cold", prediction="x0")
    with pytest.raises(ValueError, match="call adapt with the training images, or give images"):
        model.sample([0])
    assert np.isfinite(model.sample([0], images=images(1))).all()


@pytest.mark.parametrize("count", [1, 3])
def test_a_prior_is_fitted_to_few_images_too(count):
    model = make(process="heat_dissipation", prediction="less_blurred")
    model.adapt([images(count)])
    assert np.isfinite(model.sample([0, 1])).all()


@pytest.mark.parametrize("labels", [(), ([0, 1, 3, 0],), ([0, 1, -1, 0],)])
def test_a_prior_of_labels_wants_labels(labels):
    model = make(small_network(num_classes=3), process="cold", prediction="x0")
    message = r"labels must be integers in \[0, 3\) .*Received: int64" if labels else r"give labels in \[0, 3\).*: none"
    with pytest.raises(ValueError, match=message):
        model.adapt([(images(4), *map(np.array, labels))])


@pytest.mark.parametrize("arguments", [{"images": images(3)}, {"noise_seeds": [1]}, {"strength": 0.5}])
def test_between_seeds_nothing_else_is_given(arguments):
    with pytest.raises(ValueError, match="cannot be given here"):
        make().interpolate(1, 2, **arguments)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, "0.5"])
def test_wrong_cutoffs_are_named(cutoff):
    with pytest.raises(ValueError, match="cutoff must be above 0"):
        make().mix_bands([1], [2], cutoff)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2**64)])
def test_interpolation_wants_two_seeds(seeds):
    with pytest.raises(ValueError, match="seeds"):
        make().interpolate(*seeds)


def test_uint64_seeds_that_fit_are_fine():
    model = make(keras.models.clone_model(small_network()))
    np.testing.assert_array_equal(model.sample(np.array([3], "uint64"), 1), model.sample([3], 1))


def test_sampling_is_traced_once_for_any_number_of_images_and_steps():
    model = randomized(make(sampler="ancestral2"))
    for num_steps, count in [(3, 2), (4, 2), (5, 1), (7, 3)]:
        model.sample(range(count), num_steps=num_steps)
        model.sample(range(count), num_steps=num_steps, grid="uniform", verbose=True)
    assert model.reverse_process._advance.experimental_get_tracing_count() == 1
    assert model.reverse_process._start.experimental_get_tracing_count() == 1
    model.sample([1, 2], images=images(2), strength=0.5)
    assert model.reverse_process._advance.experimental_get_tracing_count() == 1
