"""The checks that every room shares: what passes, and what the refusals say."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pidax._checks import (
    check_condition,
    check_interval,
    require_whole,
    whole_number,
)

REFUSED = [True, np.True_, np.array(True), jnp.array(True)]
REFUSED += [3.0, np.float32(3), 2.5, "3", None, 0, np.array([3])]


def test_a_whole_number_of_any_library():
    for value in (3, np.int64(3), np.uint8(3), np.array(3), jnp.array(3)):
        number = whole_number("n", value)
        assert number == 3
        assert type(number) is int
    for value in REFUSED:
        message = r"n must be a whole number of at least 1, got n=.*\. Pass an integer"
        with pytest.raises(ValueError, match=message):
            whole_number("n", value)
    with pytest.raises(ValueError, match="b must be a whole number of at least 2"):
        require_whole(least=2, a=2, b=1)
    with pytest.raises(ValueError, match=r"at least 1, got n=.*Tracer"):
        jax.jit(lambda n: whole_number("n", n))(3)


def test_an_interval_of_any_library():
    ends = check_interval("x", (np.float32(-1), jnp.array(2.0)))
    assert ends == (-1.0, 2.0)
    assert all(type(end) is float for end in ends)
    assert check_interval("x", (0, np.inf), least=0, most=np.inf) == (0.0, np.inf)
    for options, pair in (
        ({}, (2, 1)),
        ({}, (1, 1)),
        ({}, (1, np.inf)),
        ({}, (np.nan, 1)),
        ({}, 3),
        ({}, (1, 2, 3)),
        (dict(positive=True), (0, 1)),
        (dict(least=0), (-1, 1)),
        (dict(most=1), (0, 2)),
    ):
        with pytest.raises(ValueError, match=r"x must be an interval .*, got .*first"):
            check_interval("x", pair, **options)  # type: ignore[arg-type]
    checked = eqx.filter_jit(lambda low: check_interval("x", (low, 1.0))[0])
    assert checked(jnp.array(0.5)) == 0.5
    with pytest.raises(Exception, match=r"got not known while tracing\. Pass"):
        checked(jnp.array(1.5))


def test_a_condition_for_each_sample():
    labels = np.array([1, 2])
    both = check_condition({"a": labels, "b": 3}, 2)
    assert both["a"] is labels
    assert both["b"].tolist() == [3, 3]
    assert check_condition(None, 2) is None
    with pytest.raises(ValueError, match=r"expected length 3, got shape \(2,\). To"):
        check_condition(labels, 3)
