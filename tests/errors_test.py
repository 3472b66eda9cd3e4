"""The checks that every place of the package uses: what they let through and what they say."""

import numpy as np
import pytest

from tf_blurdiff.errors import UserError, check_count, one_of


@pytest.mark.parametrize("value", [1, 7, np.int32(3), np.uint8(1), 2**31 - 1])
def test_a_count_is_an_integer_of_any_kind(value):
    check_count("num_steps", value)


@pytest.mark.parametrize("value", [0, -1, 2**31, 1.0, np.float32(2), True, np.True_, "3", None, [1], float("nan")])
def test_what_is_no_count_is_named(value):
    with pytest.raises(UserError) as caught:
        check_count("num_steps", value)
    assert str(caught.value) == f"num_steps must be an integer of 1 or more, below 2^31. Received: {value!r}"


def test_the_least_count_may_be_another():
    check_count("keep", 0, least=0)
    with pytest.raises(UserError, match=r"num_images must be an integer of 2 or more, below 2\^31\. Received: 1"):
        check_count("num_images", 1, least=2)


def test_a_name_must_be_one_of_those_allowed():
    one_of("grid", "uniform", {"uniform": 1, "quadratic": 2})
    # An iterator can be read only once.
    one_of("grid", "quadratic", iter(["uniform", "quadratic"]))


@pytest.mark.parametrize("value", ["cubic", "", "Uniform", None, 0, [], ["uniform"], {}, np.array(["uniform"] * 2)])
def test_another_name_is_told_what_is_allowed(value):
    with pytest.raises(UserError) as caught:
        one_of("grid", value, iter(["uniform", "quadratic"]))
    assert str(caught.value) == f"grid must be one of uniform, quadratic. Received: {value!r}"
