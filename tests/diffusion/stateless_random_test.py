import numpy as np
import pytest
import tensorflow as tf

from tf_blurdiff.diffusion.stateless_random import fold, global_rows, normal_by_seed, normal_rows, uniform_rows

SEED = [3, 5]


@pytest.mark.parametrize("row_shape", [(8,), (7, 5, 3), ()])
@pytest.mark.parametrize("draw", [normal_rows, uniform_rows])
def test_replicas_draw_their_rows_of_the_global_batch(draw, row_shape, two_replicas):
    parts = two_replicas.run(tf.function(lambda: draw(SEED, (3, *row_shape))))
    whole = draw(SEED, (6, *row_shape))
    np.testing.assert_array_equal(tf.concat(two_replicas.experimental_local_results(parts), axis=0), whole)
    assert len(np.unique(whole)) == np.size(whole)


def test_global_rows_number_the_replicas_rows(two_replicas):
    rows = two_replicas.run(tf.function(lambda: global_rows(3)[0]))
    assert tf.concat(two_replicas.experimental_local_results(rows), axis=0).numpy().tolist() == [0, 1, 2, 3, 4, 5]
    assert global_rows(3)[1] == 3


def test_numbers_have_their_distribution():
    normal, uniform = normal_rows(SEED, (500, 201)).numpy(), uniform_rows(SEED, (500, 201)).numpy()
    np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=0.02)
    np.testing.assert_allclose([uniform.mean(), uniform.var()], [1 / 2, 1 / 12], atol=0.005)
    assert uniform.min() >= 0 and uniform.max() < 1


def test_a_row_depends_on_its_seed_and_stream_alone():
    seeds = np.array([7, -1, 2**63 - 1, 7], np.int64)
    rows = normal_by_seed(seeds, 2, (4, 3)).numpy()
    np.testing.assert_array_equal(rows[0], rows[3])
    np.testing.assert_array_equal(rows[2:3], normal_by_seed(seeds[2:3], 2, (4, 3)))
    assert not np.array_equal(rows[0], normal_by_seed(seeds, 1, (4, 3))[0])
    assert len(np.unique(rows[:3])) == 36
    assert tf.function(normal_by_seed)(tf.zeros([0], tf.int64), 2, (4, 3)).shape == (0, 4, 3)


def test_fold_depends_on_all_it_is_given():
    seeds = [fold(SEED), fold(SEED, 1), fold(SEED, 2), fold(SEED, 1, 2), fold(SEED, 2, 1), fold([0, 0], 1)]
    assert len({tuple(seed.numpy()) for seed in seeds}) == len(seeds)
    np.testing.assert_array_equal(fold(SEED, 1, 2), fold(SEED, tf.constant(1), np.int64(2)))
