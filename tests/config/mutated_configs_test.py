"""The rarest mistakes: configs that were changed at random."""

import pytest

from tests.config.mutated_configs import check


@pytest.mark.slow
def test_a_random_config_trains_or_is_refused_with_words():
    counts, failures = check(seed=1, count=60)
    assert not failures, "\n\n".join(failures)
    assert counts["trained"] >= 5 and counts["refused"] >= 20
