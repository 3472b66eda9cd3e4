import numpy as np
import pytest

import tf_blurdiff as bd
from tests.support import models
from tf_blurdiff.errors import UserError
from tf_blurdiff.model import restoration_settings

GREY_LEVEL = 2 / 255


@pytest.fixture(scope="module")
def model():
    return models.randomized(models.make(process="blurring"))


@pytest.fixture(scope="module")
def images():
    """Smooth, so that some of them is left of any blur."""
    return np.asarray(bd.layers.HeatBlur()([models.images(5), np.full(5, 0.5, "float32")]))


def test_blurred_again_they_are_what_was_given(model, images):
    sigma = np.array([0.3, 0.6, 1.0, 1.5, 0.0], "float32")
    blurred = np.asarray(bd.layers.HeatBlur()([images, sigma]))
    # Before the clip to [-1, 1], which a random network's images need.
    restored = model.deblur(blurred, sigma, num_steps=10, return_trajectory=True)[-1]
    np.testing.assert_array_equal(model.deblur(blurred, sigma, num_steps=10), np.clip(restored, -1, 1))
    assert np.abs(np.asarray(bd.layers.HeatBlur()([restored, sigma])) - blurred).max() < 3 * GREY_LEVEL
    # Without blur nothing is left to do.
    assert np.abs(restored[4] - images[4]).max() < 3 * GREY_LEVEL


def test_averaged_again_they_are_what_was_given(model, images):
    small = images.reshape(5, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    large = model.super_resolve(small, num_steps=10, return_trajectory=True)[-1]
    assert large.shape == images.shape
    assert np.abs(large.reshape(5, 4, 2, 4, 2, 1).mean(axis=(2, 4)) - small).max() < 3 * GREY_LEVEL
    assert model.super_resolve(images.reshape(5, 2, 4, 2, 4, 1).mean(axis=(2, 4)), num_steps=2).shape == images.shape


def test_known_pixels_stay_and_the_others_do_not_matter(model, images):
    mask = np.zeros((5, 8, 8), bool)
    mask[:, 2:6, 3:7] = True
    restored = model.inpaint(images, mask, num_steps=10)
    assert np.abs((restored - images)[~mask]).max() < 3 * GREY_LEVEL
    other = np.where(mask[..., None], -images, images)
    np.testing.assert_allclose(model.inpaint(other, mask[..., None], num_steps=10), restored, atol=1e-5)
    holes = np.where(mask[..., None], np.float32(np.nan), images)
    np.testing.assert_allclose(model.inpaint(holes, mask, num_steps=10), restored, atol=1e-5)


def test_another_seed_is_another_image_and_a_row_is_its_own(model, images):
    mask = np.ones((5, 8, 8), bool)
    mask[:, :4] = False
    restored = model.inpaint(images, mask, seeds=[3, 1, 4, 1, 5], num_steps=4)
    alone = model.inpaint(images[2:3], mask[2:3], seeds=[4], num_steps=4)
    np.testing.assert_allclose(restored[2:3], alone, atol=1e-4)
    other = model.inpaint(images[2:3], mask[2:3], seeds=[5], num_steps=4)
    assert np.abs(other - alone).max() > 0.01
    in_two = model.inpaint(images, mask, seeds=[3, 1, 4, 1, 5], num_steps=4, batch_size=2)
    np.testing.assert_allclose(in_two, restored, atol=1e-4)


def test_noise_is_not_restored(model, images):
    noisy = np.clip(images + 0.3 * np.random.default_rng(1).normal(size=images.shape), -1, 1).astype("float32")
    trusting, doubting = (model.deblur(noisy, 0.0, noise_std=std, num_steps=10) for std in (0.005, 0.3))
    assert np.abs(doubting - noisy).mean() > 5 * np.abs(trusting - noisy).mean()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, x: m.deblur(x, -1.0), r"blur_sigma must be 0 or more.*Received: -1\.0"),
        (
            lambda m, x: m.deblur(x, [1.0]),
            "blur_sigma must be 0 or more, at most 1,000,000, one number or one an image",
        ),
        (lambda m, x: m.deblur(x, np.inf), "blur_sigma must be 0 or more, at most 1,000,000, .*Received: inf"),
        (lambda m, x: m.deblur(x, 1e20), "blur_sigma must be 0 or more, at most 1,000,000, .*Received: 1e.20"),
        (lambda m, x: m.deblur(x, np.nan), "blur_sigma must be 0 or more"),
        (lambda m, x: m.deblur(x, 1.0, noise_std=0.0), r"noise_std must be 0\.0001 or more"),
        (lambda m, x: m.deblur(2 * x + 1, 1.0), r"images must be floats in \[-1, 1\]"),
        (lambda m, x: m.deblur(x, 1.0, seeds=[1]), "seeds must be a list of 5 integers"),
        (lambda m, x: m.deblur(x, 1.0, sampler="heat"), "sampler 'heat' needs"),
        (lambda m, x: m.super_resolve(x), r"\(h, w\) one of \(4, 4\), \(2, 2\), \(1, 1\)"),
        (lambda m, x: m.deblur(x, 1.0, strength=0.5), "strength cannot be given here: restoring starts from noise"),
        (lambda m, x: m.inpaint(x, np.zeros((5, 8, 7))), r"mask must be numbers or booleans of shape \(5, 8, 8\)"),
    ],
)
def test_what_is_not_allowed_is_named(model, images, call, message):
    with pytest.raises(UserError, match=message):
        call(model, images)


@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_what_the_blur_makes_of_an_edge_is_taken(model, sigma):
    """A little blur swings over."""
    edges = np.sign(np.arange(8) - 3.5).astype("float32")[None, :, None, None] * np.ones((2, 8, 8, 1), "float32")
    blurred = np.asarray(bd.layers.HeatBlur()([edges, np.full(2, sigma, "float32")]))
    assert np.abs(blurred).max() > 1.0
    restored = model.deblur(blurred, sigma, num_steps=4)
    assert np.isfinite(restored).all()
    with pytest.raises(UserError, match=r"images must be floats in .* in \[-1\.2, 1\.2\]"):
        model.deblur(1.2 * edges, sigma)


def test_images_that_have_no_smaller_ones_are_named():
    model = bd.DiffusionModel(models.small_network(None, (7, 5, 1)), bd.process.gaussian(), image_shape=(7, 5, 1))
    with pytest.raises(UserError, match="images of 7x5 have no smaller ones"):
        model.super_resolve(np.zeros((1, 1, 1, 1), "float32"))


def test_where_blur_leaves_nothing_restoring_needs_statistics(images):
    process = bd.process.blurring(sigma_blur_max=8.0, min_gain=0.0)
    model = bd.DiffusionModel(models.small_network(), process, "x0", (8, 8, 1), sampler="ddim")
    with pytest.raises(UserError, match=r"min_gain 0, is in units of the data's statistics.*: call adapt"):
        model.deblur(images, 1.0, num_steps=3)
    model.adapt(images)
    assert np.isfinite(model.deblur(images, 1.0, num_steps=3)).all()


def test_a_process_that_does_not_end_in_noise_is_refused(images):
    with pytest.raises(UserError, match="needs a process that ends in noise"):
        models.make(process="cold", prediction="x0").deblur(images, 1.0)


def test_restoring_has_settings_of_its_own():
    settings = restoration_settings(models.make(num_steps=3, sampler="ddim"))
    assert (settings.sampler, settings.num_steps) == ("ancestral", 50)
