"""Batches of few sizes, and a bar that says what is awaited."""

import numpy as np
import pytest

from pidax._batches import batch_length, batch_rows
from pidax._progress import advance, progress_bar


@pytest.mark.parametrize(
    ("count", "most", "length"),
    [(1, 64, 1), (3, 64, 4), (4, 64, 4), (65, 128, 128), (65, 100, 100), (500, 64, 64)],
)
def test_there_are_few_lengths(count, most, length):
    assert batch_length(count, most) == length
    rows = batch_rows(count, length)
    assert rows.shape == (-(-count // length), length)
    flat = rows.ravel()
    np.testing.assert_array_equal(flat[:count], np.arange(count))
    assert (flat[count:] == count - 1).all()


def test_a_bar_says_that_it_compiles_until_it_moves(capfd):
    with progress_bar(3, "refine", "sample", True) as bar:
        said = capfd.readouterr()
        assert "refine" in said.err
        assert "compiling" in said.err
        advance(bar, 3)
        bar.refresh()
        text = capfd.readouterr().err
        assert "3/3" in text
        assert "compiling" not in text.split("\r")[-1]
    assert not said.out
    capfd.readouterr()
    with progress_bar(3, "refine", "sample", False) as bar:
        advance(bar, 3)
    assert not capfd.readouterr().err
