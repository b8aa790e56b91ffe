"""Reports: what solvers, zeros, shrunken fields and wrong laws must score."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from rods import Rod, Slab

import pidax as px
from pidax.metrics import (
    amplitude_ratio,
    mean_error,
    radial_spectrum,
    sliced_wasserstein,
    spread_error,
)

GRID = px.pde.Grid((13,))
KEY = jax.random.key(3)
OPTIONS: dict[str, Any] = dict(key=KEY, resamples=100, projections=16, batch_size=16)


@pytest.fixture(scope="module")
def rod():
    return Rod(GRID)


@pytest.fixture(scope="module")
def truth(rod):
    """Fields that the solver made, in float64 whatever the session's precision."""
    with jax.enable_x64(True):
        drawn = px.pde.draw(rod, 60, key=KEY, batch_size=20)
    return jax.tree.map(np.asarray, drawn)


def part(fields, *rows):
    return type(fields)(*(np.asarray(f)[slice(*rows)] for f in fields))


@pytest.fixture(scope="module")
def found(rod, truth):
    """Exact samples, and the same with half the solution, against held-out ones."""
    with jax.enable_x64(True):
        sets = {"exact": part(truth, 20), "half": part(truth, 20)}
        half = sets["half"]._replace(solution=sets["half"].solution / 2)
        return px.pde.report(rod, sets | {"half": half}, part(truth, 20, 60), **OPTIONS)


@pytest.mark.slow
def test_exact_samples_score_what_held_out_data_score(found):
    exact, held = found["exact"], found["held-out data"]
    for row in (exact, held, found["generate a, then solve, of half"]):
        assert row.residual.estimate < 1e-12
        assert row.resolve.estimate < 1e-12
        assert row.boundary.estimate < 1e-14
        assert row.unsolved == 0
        assert row.amplitude.low < 1 < row.amplitude.high
    for name in ("mean_error", "spread_error", "sliced_wasserstein"):
        values = [getattr(row, name) for row in (exact, held)]
        assert values[0].low < values[1].high
        assert values[1].low < values[0].high


@pytest.mark.slow
def test_zero_has_no_amplitude_and_a_resolve_error_of_one(found):
    """In a linear equation half of u leaves half of the residual."""
    zero, half = found["u = 0, of exact"], found["half"]
    assert zero.amplitude.estimate == zero.amplitude.high == 0
    assert_close(zero.resolve, (1, 1, 1), 1e-14)
    assert_close(zero.per_sample["residual"].mean(), 1, 0.2)
    ratio = found["half"].per_sample["residual"] / zero.per_sample["residual"]
    assert_close(ratio, 0.5, 1e-10)
    assert_close(half.resolve.estimate, 0.5, 1e-10)
    assert_close(half.amplitude.estimate, found["exact"].amplitude.estimate / 2, 1e-12)
    assert zero.by_channel["source"] == found["exact"].by_channel["source"]
    assert zero.by_channel["solution"] != found["exact"].by_channel["solution"]


@pytest.mark.slow
def test_fields_shrunken_together_fool_the_physics_and_not_the_law(rod, truth, x64):
    """(a, u)/100 solves a linear equation; its amplitude and its spread tell."""
    small = type(truth)(*(f / 100 for f in part(truth, 20)))
    row = px.pde.report(rod, small, part(truth, 20, 60), **OPTIONS)["samples"]
    assert row.residual.estimate < 1e-12  # type: ignore
    assert row.resolve.estimate < 1e-12  # type: ignore
    assert row.amplitude.high < 0.02  # type: ignore
    assert row.spread_error.low > 0.3  # type: ignore


@pytest.mark.slow
def test_the_numbers_are_those_of_the_metrics(rod, truth, found, x64):
    """On channels in units of the reference's deviation; the split is as it is said."""
    stacked = jax.vmap(rod.stack)(truth)
    samples, compared, held = stacked[:20], stacked[20:40], stacked[40:]
    normaliser = px.pde.Normaliser.fit(compared)
    x, y, z = map(normaliser.normalise, (samples, compared, held))
    thetas = jax.random.split(jax.random.split(KEY)[0])[0]
    for row, some in ((found["exact"], x), (found["held-out data"], z)):
        assert_close(row.mean_error.estimate, mean_error(some, y), 1e-12)
        assert_close(row.spread_error.estimate, spread_error(some, y), 1e-9)
        expected = sliced_wasserstein(some, y, key=thetas, projections=16)
        assert_close(row.sliced_wasserstein.estimate, expected, 1e-10)
    for c, name in enumerate(rod.names):
        by_hand = mean_error(x[..., c], y[..., c])
        assert_close(found["exact"].by_channel[name]["mean_error"], by_hand, 1e-10)
    ratio = amplitude_ratio(truth.solution[:20], truth.solution[20:40])
    assert_close(found["exact"].amplitude.estimate, ratio, 1e-12)
    assert (found.settings["compared"], found.settings["held_out"]) == (20, 20)


@pytest.mark.slow
def test_the_spectra_are_those_of_the_solution(rod, truth, found, x64):
    spectrum = lambda u: radial_spectrum(u, lengths=(13 / 12,), periodic=False)
    each = jax.vmap(spectrum)(truth.solution[:20])
    band = found["exact"].spectra["solution"]
    assert_close(band.estimate, each.energy.mean(0), 1e-10)
    assert (band.low <= band.high).all()
    assert_close(found.wavenumbers, each.wavenumber[0], 1e-12)
    mean_square = np.mean(truth.solution[20:40] ** 2)
    assert_close(found.reference_spectra["solution"].estimate.sum(), mean_square, 1e-10)


@pytest.mark.slow
def test_coefficients_that_cannot_be_solved_for_are_counted(x64):
    slab = Slab(GRID)
    truth = jax.tree.map(np.asarray, px.pde.draw(slab, 40, key=KEY))
    broken = np.array(truth.coefficient)
    broken[[3, 17], 5] = -0.1
    samples = truth._replace(coefficient=broken)
    samples = part(samples, 20)
    found = px.pde.report(slab, samples, part(truth, 20, 40), **OPTIONS)
    row, solved = found["samples"], found["generate a, then solve"]
    assert row.unsolved == found["u = 0"].unsolved == solved.unsolved == 2
    assert np.isnan(row.per_sample["resolve"]).nonzero()[0].tolist() == [3, 17]
    good = np.delete(row.per_sample["resolve"], [3, 17])
    assert (good < 1e-12).all()  # one sample that fails does not fail its batch
    assert np.isfinite(row.per_sample["residual"]).all()
    assert solved.residual.estimate < 1e-11  # type: ignore
    assert len(solved.per_sample["residual"]) == 18
    text = " ".join(str(found).split())
    assert text.count("2 of 20 cannot be solved for (coefficient) and are left") == 1
    assert "solution: the coefficient must be positive everywhere, got" in text
    # All of them: the columns that need a solution are empty, and nothing crashes.
    samples = samples._replace(coefficient=-samples.coefficient)
    found = px.pde.report(slab, samples, part(truth, 20, 40), **OPTIONS)
    assert found["samples"].resolve is None
    assert found["samples"].amplitude.estimate > 0  # type: ignore
    assert found["generate a, then solve"].mean_error is None
    assert found["generate a, then solve"].unsolved == 20
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))
    # But the reference must be the equation's own.
    with pytest.raises(ValueError, match="the reference must be fields that the equat"):
        px.pde.report(slab, part(truth, 20), samples, **OPTIONS)


@pytest.mark.slow
def test_any_form_of_samples_gives_one_report(rod, tmp_path, x32):
    """By name, stacked and stored; in float32 the floor is that of rounding."""
    data = px.pde.generate(
        rod, 24, key=KEY, path=tmp_path / "d", batch_size=24, progress=False
    )
    options = OPTIONS | {"resamples": 20}
    forms = [data, data[:], data.fields(slice(None))]
    found = [px.pde.report(rod, some, data[:], **options) for some in forms]  # type: ignore
    one, *others = (some.as_dict() for some in found)
    for other in others:
        assert one["rows"] == other["rows"]
    row = found[0]["held-out data"]
    stored = np.median(data.residuals["stored"][-12:])
    assert_close(row.residual.estimate, stored, 1e-3)  # type: ignore
    assert row.resolve.estimate < 1e-5  # type: ignore


@pytest.mark.slow
def test_a_report_is_a_table_and_json(found, tmp_path):
    found.save(tmp_path / "r.json")
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved == found.as_dict()
    assert saved["rows"]["half"]["resolve"][0] == pytest.approx(0.5)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "Rod, linear in source, solution"
    half = next(line for line in lines if line.startswith("half "))
    assert half.split()[2] == "5.0e-01"
    assert "last 20" in " ".join(str(found).split())
    with pytest.raises(KeyError, match="'student' is not one of the rows"):
        found["student"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_report_of_fields_of_any_size_is_that_of_theirs(rod, truth, found, size, x32):
    """Float32 has no squares of them; nor are they written as what is no number."""
    sets = [type(truth)(*(np.float32(f) * size for f in truth))] * 2
    one = px.pde.report(rod, part(sets[0], 20), part(sets[1], 20, 60), **OPTIONS)
    saved = json.loads(json.dumps(one.as_dict(), allow_nan=False))
    exact, row = found.as_dict()["rows"]["exact"], saved["rows"]["samples"]
    for name in ("amplitude", "mean_error", "spread_error", "sliced_wasserstein"):
        assert_close(row[name], exact[name], 1e-5)
    assert max(row["residual"]) < 1e-5
    energy = row["spectra"]["solution"]["energy"]
    assert_close(
        np.array(energy) / size**2, exact["spectra"]["solution"]["energy"], 1e-5
    )


def test_what_is_no_sample_of_the_equation_is_refused(rod, truth, x64):
    samples, reference = part(truth, 20), part(truth, 20, 40)
    make = lambda s, r=reference: px.pde.report(rod, s, r, **OPTIONS)
    other = Slab.Fields(*samples)
    with pytest.raises(ValueError, match="have the fields source, solution, got coeff"):
        make(other)
    with pytest.raises(ValueError, match="got 3 channels"):
        make(np.zeros((4, 13, 3)))
    bad = np.array(samples.solution)
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match="infinite entries in 1"):
        make(samples._replace(solution=bad))
    with pytest.raises(ValueError, match="at least 4 samples, half of them"):
        make(samples, part(truth, 3))
    with pytest.raises(ValueError, match="none of them 'held-out data'"):
        make({"u = 0": samples})


def test_zero_fields_of_an_equation_without_sources_have_residual_zero():
    """Not 0/0: the report of zeros says that they solve the equation."""
    from pidax.pde._equation import ratio

    found = ratio(jnp.array([0.0, 0.0, 2.0]), jnp.array([0.0, 3.0, 4.0]))
    assert found.tolist() == [0.0, 0.0, 0.5]
