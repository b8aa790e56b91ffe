"""Channels by their formula, their law, and the flow through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import assert_close

import pidax as px
from pidax.inference import LatentPrior
from pidax.pde import Channels, Darcy, Grid

GRID = Grid((24, 20), ((0.0, 3.0), (-1.0, 1.0)), layout="cells")
LAW = Channels(GRID, high=7.0, low=2.0)
DRAWS = 800


@pytest.fixture(scope="module")
def drawn():
    """Latents, fields (by the prior of an inference), shapes and connections."""
    rng, prior = np.random.default_rng(3), LatentPrior.of(LAW)
    latents = rng.normal(size=(DRAWS, LAW.latent_size)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def look(e):
        inside = LAW.inside(e)
        return prior(e)[..., 0], LAW.shapes(e), px.metrics.connects(inside)

    return jax.tree.map(np.asarray, (latents, *look(latents)))


def by_hand(e):
    """Of the first channel, and of which there are."""
    u = scipy.stats.norm.cdf(np.asarray(e, np.float64))
    two = u[18] < 2 / 3
    there = [True, two, two and u[19] < 1 / 2]
    x, y = np.meshgrid((np.arange(24) + 0.5) / 24, (np.arange(20) + 0.5) / 20)
    inside = np.zeros((20, 24), bool)
    for k, some in enumerate(there):
        c, t, a, wave, p, w = u[6 * k : 6 * k + 6]
        t, a, wave, w = 0.6 * t - 0.3, 0.02 + 0.1 * a, 0.5 + 0.7 * wave, 0.05 + w / 20
        path = c + t * (x - 0.5) + a * np.sin(2 * np.pi * (x / wave + p))
        inside |= some & (np.abs(y - path) < w)
    return np.where(inside.T, 7.0, 2.0), there


def test_a_draw_is_the_formula_of_its_normal_numbers(drawn):
    latents, fields, shapes, _ = drawn
    differ = 0
    for i in range(100):
        expected, there = by_hand(latents[i])
        assert shapes.present[i].tolist() == there
        differ += int((fields[i] != expected).sum())
    assert differ <= 2  # points on an edge, in float32
    assert LAW.latent_size == 20
    with pytest.raises(ValueError, match=r"20 normal numbers.*got shape \(19,\)"):
        LAW.from_latent(jnp.zeros(19))


def test_the_law_is_uniform(drawn):
    """Numbers of channels are equally likely, and each parameter by its quantiles."""
    shapes = drawn[2]
    counts = np.bincount(shapes.present.sum(axis=1), minlength=4)
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > 1e-3
    for name in ("centre", "tilt", "amplitude", "wavelength", "half_width"):
        low, high = getattr(LAW, name)
        unit = (getattr(shapes, name).ravel() - low) / (high - low)
        assert scipy.stats.kstest(unit, "uniform").pvalue > 1e-4, name


def test_channels_connect_the_sides_more_often_than_not(drawn):
    """0.94 of them was measured elsewhere, on 16 x 16 cells."""
    assert 0.9 < drawn[3].mean() < 0.97


def test_an_equation_of_channels_has_their_law_for_its_prior():
    darcy = Darcy.channels((20, 20), most=2)
    assert LatentPrior.of(darcy).shape == (13,)
    assert darcy.mean == "harmonic"


def test_what_does_not_fit_the_grid_is_refused():
    thin = r"one cell .* widths from 0.1 with cells of 0.125 .*Take 8 x 10 points"
    with pytest.raises(ValueError, match=thin):
        Channels(Grid((8, 8), layout="cells"))
    short = r"4 cells a wave.*waves from 0.5 with cells of 0.167 .*Take 8 x 20"
    with pytest.raises(ValueError, match=short):
        Channels(Grid((6, 20), layout="cells"))
    Channels(Grid((8, 10), layout="cells"))
    with pytest.raises(ValueError, match="in the plane, got Grid"):
        Channels(Grid((8,)))
    with pytest.raises(ValueError, match="tilt must be an interval"):
        Channels(GRID, tilt=(1.0, 0.0))


@pytest.mark.slow
def test_the_same_water_flows_through_every_section(x64):
    """And less where nothing connects the sides: between layers' bounds."""
    darcy = Darcy.channels((16, 16))

    @jax.jit
    @jax.vmap
    def look(key):
        fields = darcy.solve(*darcy.draw(key=key))
        inside = fields.coefficient > 10
        numbers = darcy.flow(fields), darcy.flow(fields, 1), inside.mean()
        relative = darcy.relative_residual(fields)
        return *numbers, px.metrics.connects(inside), relative

    found = jax.tree.map(np.asarray, look(jax.random.split(jax.random.key(0), 64)))
    flow, across, share, connected, relative = found
    assert (np.ptp(flow, axis=1) < 1e-6 * flow[:, 0]).all()
    assert_close(across[:, [0, -1]], 0.0, 1e-12)
    assert relative.max() < 1e-6
    upper, lower = 300 * share + 3 * (1 - share), 1 / (share / 300 + (1 - share) / 3)
    assert (flow[:, 0] < upper).all()
    assert (flow[:, 0] > lower).all()
    assert flow[connected].min() > 1.5 * flow[~connected].max()


@pytest.mark.slow
def test_chains_in_the_normal_numbers_keep_the_law(x32):
    """With observations that say nothing: the number of channels stays uniform."""
    mask = np.zeros((*GRID.shape, 1), bool)
    mask[3, 4] = True
    observation = px.Observation(mask, np.zeros(mask.shape, np.float32), 1e4)
    method = px.inference.PCN(chains=32, warmup=100, thin=5)
    prior, key = LatentPrior.of(LAW), jax.random.key(4)
    found = px.infer(
        prior, observation, key=key, method=method, samples=3200, progress=False
    )
    number = jax.vmap(lambda e: LAW.shapes(e).present.sum())(found.latent)
    shares = np.bincount(np.asarray(number), minlength=4)[1:] / len(found.latent)
    assert_close(shares, 1 / 3, 0.0, 0.06)
