"""The structure of fields that are known: stripes, a board, a disc, chance, shocks."""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.ndimage
from helpers import assert_close

from pidax.metrics import components, connects, lineal_path, shocks, two_point

N = 32
ROW, COLUMN = np.indices((N, N))
RADIUS = 7.8
OFF = (np.array([ROW, COLUMN]) + 0.5 - N / 2) ** 2
PHASES = {
    "stripes": ROW % 4 < 2,
    "board": (ROW + COLUMN) % 2 == 0,
    "disc": OFF.sum(0) < RADIUS**2,
    "chance": np.random.default_rng(0).random((N, N)) < 0.6,
}


@jax.jit
@jax.vmap
def looked_at(phase):
    return {
        "pairs": [two_point(phase, periodic=p) for p in (True, False)],
        "paths": [lineal_path(phase, periodic=p) for p in (True, False)],
        "across": [connects(phase), connects(phase, 1)],
        "parts": components(phase),
    }


@pytest.fixture(scope="module")
def structure():
    found = jax.tree.map(np.asarray, looked_at(np.stack(list(PHASES.values()))))
    each = [jax.tree.map(lambda a, i=i: a[i], found) for i in range(len(PHASES))]
    return dict(zip(PHASES, each, strict=True))


def test_stripes_have_two_points_of_four(structure):
    """Two of four rows: pairs 0, 1, 2, ... apart have both in it with 1/2, 1/4, 0."""
    found = structure["stripes"]
    period = np.array([0.5, 0.25, 0.0, 0.25])
    assert_close(found["pairs"][0], np.tile(period, 5)[: N // 2 + 1], 1e-6)
    # Of the N - 1 pairs of neighbours in a line that is not glued, N / 4 are inside.
    assert_close(found["pairs"][1][:2], [0.5, (N / 4) / (N - 1)], 1e-6)
    assert_close(found["paths"][0][:4], [0.5, 0.25, 0.0, 0.0], 1e-6)
    assert_close(found["paths"][1][:3], [0.5, (N / 4) / (N - 1), 0.0], 1e-6)
    assert found["across"] == [False, True]
    assert len(np.unique(found["parts"])) == 1 + N // 4


def test_a_board_touches_at_corners_only(structure):
    found = structure["board"]
    assert_close(found["pairs"][0], np.tile([0.5, 0.0], 9)[: N // 2 + 1], 1e-6)
    assert_close(found["paths"][0][:2], [0.5, 0.0], 1e-6)
    assert found["across"] == [False, False]
    assert len(np.unique(found["parts"])) == 1 + N**2 // 2


def test_a_disc_is_a_lens_with_itself(structure):
    """S2 is the area of the overlap; a disc is convex, so that segments are pairs."""
    found, r = structure["disc"], np.arange(N // 2 + 1)
    half = np.minimum(r / 2 / RADIUS, 1)
    lens = 2 * RADIUS**2 * (np.arccos(half) - half * np.sqrt(1 - half**2))
    assert_close(found["pairs"][0], lens / N**2, 0.0, 0.006)
    assert_close(found["paths"][0][: N // 2], found["pairs"][0][:-1], 1e-6)
    assert found["across"] == [False, False]
    assert list(np.unique(found["parts"])) == [
        0,
        1 + np.flatnonzero(PHASES["disc"])[-1],
    ]


def test_independent_points_have_products(structure):
    p, found = 0.6, structure["chance"]
    spread = 5 / N  # five standard errors, and more for neighbouring segments
    assert_close(found["pairs"][0][0], p, 0.0, spread * 0.5)
    assert_close(found["pairs"][0][1:], p**2, 0.0, spread * 0.5)
    lengths = np.arange(1, 7)
    for paths in found["paths"]:
        assert_close(paths[:6], p**lengths, 0.0, spread * 0.5)
        assert (np.diff(paths) <= 1e-7).all()


def named(phase) -> tuple[np.ndarray, int]:
    """Parts by SciPy, and their number."""
    found: Any = scipy.ndimage.label(phase)
    return found


def test_parts_are_scipys():
    """Of fields near the threshold of percolation, glued along one axis and not."""
    phases = np.random.default_rng(1).random((40, 12, 12)) < 0.6
    found, parts, around = jax.jit(
        jax.vmap(
            lambda p: (
                connects(p),
                components(p),
                components(p, periodic=(False, True)),
            )
        )
    )(phases)
    crossed = []
    for i, phase in enumerate(phases):
        labels, count = named(phase)
        crossed.append(bool(set(labels[0]) & set(labels[-1]) - {0}))
        pairs = set(zip(labels.ravel(), np.asarray(parts[i]).ravel(), strict=True))
        assert len(pairs) == 1 + count  # one name for each of SciPy's, and the outside
        tiled = named(np.tile(phase, (1, 3)))[0][:, 12:24]
        mine = np.asarray(around[i])
        names = set(zip(tiled[phase], mine[phase], strict=True))
        assert len(names) >= len(np.unique(mine[phase]))
        assert ((mine[:, 0] == mine[:, -1]) | ~(phase[:, 0] & phase[:, -1])).all()
    assert found.tolist() == crossed
    assert 5 < sum(crossed) < 35


def test_shocks_are_where_a_field_falls():
    x = (np.arange(64) + 0.5) / 64
    sharp = np.where((x > 0.25) & (x < 0.75), -0.5, 0.5)  # falls at 1/4, rises at 3/4
    wave = np.mod(x - 0.625, 1.0)  # a ramp that falls by one at 5/8
    smeared = -np.tanh((x - 0.5) / 0.02) / 2 + np.clip(4 * (x - 0.8), 0, 1)
    # The last one falls between its ends, and by less than is asked for at 1/2.
    around = np.where(x < 0.5, x, x - 0.05)
    found = jax.jit(jax.vmap(lambda u: shocks(u, most=3)))(
        np.stack([sharp, wave, smeared, around])
    )
    assert_close(found.position[:, 0], [0.25, 0.625, 0.5, 0.0], 0.0, 1e-6)
    # The tails of the smeared one are flatter than 2: they have 1 - sqrt(0.92) of it.
    assert_close(found.fall[:3, 0], [1.0, 63 / 64, 0.92**0.5], 0.0, 0.005)
    assert np.isnan(found.position[:, 1]).all()
    how: dict[str, Any] = dict(periodic=False, least=0.02, steepness=1)
    ends = jax.jit(lambda u: shocks(u, extent=(2.0, 4.0), **how))(around)
    assert_close(ends.position[0], 3.0, 1e-6)
    assert np.isnan(ends.position[1])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"one of the 2 axes .* got 2.*jax.vmap"):
        connects(PHASES["disc"], 2)
    with pytest.raises(ValueError, match=r"an entry for each of 2, got \(True,\)"):
        components(PHASES["disc"], periodic=(True,))
    two = np.where(PHASES["disc"], 300.0, 3.0)
    with pytest.raises(ValueError, match=r"2 different.*3 and 300.*field > 151.5 for"):
        connects(two)
    with pytest.raises(ValueError, match=r"of int64 with 3 different.*field > thresh"):
        components(np.array([[0, 1], [2, 1]]))
    with pytest.raises(ValueError, match=r"booleans, got an array of float32\. Pass"):
        jax.jit(connects)(two.astype(np.float32))
