"""Normalisers and datasets: exact inverses, the same bits after any interruption."""

import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance
from rods import Rod, Slab

import pidax as px
from pidax._files import lock_directory
from pidax.pde import Normaliser, _generate

GRID = px.pde.Grid((17,))
KEY = jax.random.key(5)
FILES = ("fields", "residuals", "checksums")


@pytest.fixture
def rod():
    return Rod(GRID)


def fields_in(dtype, *lead):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(*lead, 5, 4, 2)) * [3.0, 0.01] + [-7.0, 2.0]).astype(dtype)


# --- the normaliser ------------------------------------------------------------------


def test_fit_gives_mean_zero_and_deviation_one_and_restore_undoes_it(dtype):
    x = fields_in(dtype, 30)
    normaliser = Normaliser.fit(x)
    y = np.asarray(normaliser.normalise(x))
    assert y.dtype == dtype
    assert_close(y.mean((0, 1, 2)), [0.0, 0.0], 0, tolerance(dtype, 200))
    assert_close(y.std((0, 1, 2)), [1.0, 1.0], tolerance(dtype, 200))
    eps = float(np.finfo(dtype).eps)
    assert_close(normaliser.restore(y), x, 4 * eps, 40 * eps)
    # One sample, compiled, differentiable.
    one, slope = jax.jit(jax.value_and_grad(lambda y: normaliser.restore(y)[0, 0, 1]))(
        jnp.asarray(y[3])
    )
    assert_close(one, x[3, 0, 0, 1], 4 * eps, 40 * eps)
    assert_close(slope[0, 0], [0.0, normaliser.std[1]], 1e-6)


def test_the_published_scalings_are_affine_and_a_constant_is_only_shifted(x64):
    darcy = Normaliser.affine(scale=(0.2, 115.0), shift=(-1.5, -0.9))
    x = fields_in(np.float64)
    assert_close(darcy.normalise(x), x * [0.2, 115.0] + [-1.5, -0.9], 1e-12)
    flat = Normaliser.fit(np.stack([np.full((4, 3), 12.0), x[:4, :3, 0]], axis=-1))
    assert (flat.mean[0], flat.std[0]) == (12.0, 1.0)


def test_a_normaliser_is_saved_with_what_holds_it(tmp_path):
    normaliser = Normaliser((0.1, 1 / 3), (1e-3, 7.0))
    px.save(tmp_path / "n.pidax", normaliser)
    assert px.load(tmp_path / "n.pidax") == normaliser
    assert not jax.tree.leaves(normaliser)  # nothing that an optimiser would train


def test_an_axis_of_the_grid_is_not_taken_for_channels():
    u = np.random.default_rng(0).normal(size=(30, 4, 9))  # samples, times, points
    for chart in (Normaliser, px.pde.Whitened):
        for channels in (None, 8):
            with pytest.raises(ValueError, match=r"shape \(30, 4, 9\).*channels=9\."):
                chart.fit(u, channels=channels)
    assert Normaliser.fit(u[..., None]).mean == pytest.approx((u.mean(),))
    assert len(Normaliser.fit(u, channels=9).mean) == 9


def test_a_normaliser_refuses_what_is_not_its_own():
    with pytest.raises(ValueError, match=r"of 2 channels, got an array of shape \(3,"):
        Normaliser((0.0, 0.0), (1.0, 1.0)).restore(jnp.ones((3, 4)))
    for mean, std in [((0.0,), (0.0,)), ((0.0, 1.0), (1.0,)), ((np.nan,), (1.0,))]:
        with pytest.raises(ValueError, match="a finite mean and a positive std"):
            Normaliser(mean, std)


# --- drawing and storing -------------------------------------------------------------


def test_sample_i_is_that_of_its_own_key_in_double(rod):
    """Whatever the session's precision and the batch."""
    fields = px.pde.draw(rod, 5, key=KEY, batch_size=2)
    assert fields.solution.shape == (5, 17)
    alone = rod.sample(key=jax.random.fold_in(KEY, 3))
    assert fields.source.dtype == jnp.zeros(()).dtype
    assert_close(fields.source[3], alone.source, 1e-6)
    assert_close(fields.solution[3], alone.solution, 1e-6)


@pytest.mark.slow
def test_a_dataset_holds_what_was_drawn_and_says_so(rod, tmp_path):
    data = px.pde.generate(
        rod, 10, key=KEY, path=tmp_path / "d", batch_size=4, progress=False
    )
    drawn = px.pde.draw(rod, 10, key=KEY, batch_size=4)
    expected = np.asarray(jax.jit(jax.vmap(rod.stack))(drawn), np.float32)
    assert (len(data), data.shape, data.array.dtype) == (10, (17, 2), np.float32)
    np.testing.assert_array_equal(data[:], expected)
    assert isinstance(data.array, np.memmap)
    assert not isinstance(data[2:5], np.memmap)
    np.testing.assert_array_equal(data.fields(7).solution, expected[7, :, 1])
    np.testing.assert_array_equal(data.fields(slice(2)).source, expected[:2, :, 0])
    # The numbers of the header are those of the arrays.
    wide = expected.astype(np.float64)
    for c, name in enumerate(("source", "solution")):
        some, channel = data.statistics[name], wide[..., c]
        found = [some[kind] for kind in ("mean", "std", "min", "max")]
        assert_close(
            found, [channel.mean(), channel.std(), channel.min(), channel.max()], 1e-12
        )
    assert data.normaliser == Normaliser.fit(expected) or np.allclose(
        data.normaliser.std, Normaliser.fit(expected).std, 1e-12, 0
    )
    text = str(data)
    for word in ("10 samples of Rod", "solution", "as stored", "jax", "nodes"):
        assert word in text
    assert max(map(len, text.replace(str(data.path), "").splitlines())) <= 100


@pytest.mark.slow
def test_the_residual_floor_is_that_of_rounding_to_float32(rod, tmp_path, x32):
    """As solved 1e-13, as stored ε |u| / (h² |f|): computed in float64 of both."""
    data = px.pde.generate(rod, 6, key=KEY, path=tmp_path / "d", progress=False)
    assert (data.residuals["solved"] < 1e-11).all()
    with jax.enable_x64(True):
        wide = Rod(GRID)
        one = lambda row: wide.relative_residual(wide.unstack(row))
        expected = jax.jit(jax.vmap(one))(jnp.asarray(data[:], jnp.float64))
    assert_close(data.residuals["stored"], expected, 1e-5)
    assert 1e-7 < np.median(expected) < 1e-4
    floor = data.header["residual"]["stored"]
    assert_close(floor["median"], np.median(data.residuals["stored"]), 1e-6)
    assert_close(floor["p99"], np.quantile(data.residuals["stored"], 0.99), 1e-6)


def bits(path):
    return [(path / f"{name}.npy").read_bytes() for name in FILES]


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    rod, tmp_path, monkeypatch
):
    make = lambda name, n=10: px.pde.generate(
        rod, n, key=KEY, path=tmp_path / name, batch_size=4, progress=False
    )
    whole = make("whole")
    put, calls = _generate._put, []

    def torn(path, start, rows, total):
        """The machine dies in the middle of a write."""
        calls.append(start)
        if len(calls) in stops:
            put(path, start, rows[: len(rows) // 2], total)
            raise KeyboardInterrupt
        put(path, start, rows, total)

    for stops in [{1}, {3}, {5, 8}, {9}]:
        calls.clear()
        name = f"torn {stops}"
        monkeypatch.setattr(_generate, "_put", torn)
        for _ in stops:
            with pytest.raises(KeyboardInterrupt):
                make(name)
        with pytest.raises(ValueError, match="of 10 samples: its generation was inter"):
            px.pde.open(tmp_path / name)
        monkeypatch.setattr(_generate, "_put", put)
        np.testing.assert_array_equal(make(name)[:], whole[:])
        assert bits(tmp_path / name) == bits(tmp_path / "whole")
        header = json.loads((tmp_path / name / "header.json").read_text())
        assert header.pop("sha256")
        assert header == whole.header
    # Smaller, then grown; what was there is not written again, and is the same.
    make("grown", 6)
    grown = make("grown")
    assert bits(tmp_path / "grown") == bits(tmp_path / "whole")
    assert grown.header["statistics"] == whole.header["statistics"]
    # A growth that was interrupted is not taken for a whole dataset.
    stops = {4}
    calls.clear()
    monkeypatch.setattr(_generate, "_put", torn)
    with pytest.raises(KeyboardInterrupt):
        make("grown", 21)
    with pytest.raises(ValueError, match="12 of 21 samples"):
        px.pde.open(tmp_path / "grown")
    monkeypatch.setattr(_generate, "_put", put)
    np.testing.assert_array_equal(make("grown", 12)[:10], whole[:])


def test_two_writers_do_not_meet_and_leftovers_are_cleared(rod, tmp_path):
    path = tmp_path / "d"
    make = lambda n: px.pde.generate(rod, n, key=KEY, path=path, progress=False)
    path.mkdir()
    leftover = path / ".header.json.0123456789abcdef.tmp"
    with lock_directory(path):
        leftover.write_text("{")  # of a run that was killed in its first write
        with pytest.raises(ValueError, match=r"not be in use, got .*d, to which anoth"):
            make(3)
    assert len(make(3)) == 3
    assert not leftover.exists()
    with lock_directory(path):
        assert len(make(3)) == 3  # to open a whole one is no writing
        with pytest.raises(ValueError, match="not be in use"):
            make(4)


def test_damage_is_found_and_named(rod, tmp_path):
    path = tmp_path / "d"
    make = lambda n=6: px.pde.generate(
        rod, n, key=KEY, path=path, batch_size=4, progress=False
    )
    made = make()
    made.verify()
    whole = {file.name: file.read_bytes() for file in path.glob("*.*")}
    text = whole["header.json"]

    def damaged(name, content, match, act):
        (path / name).write_bytes(content)
        with pytest.raises(ValueError, match=match):
            act()
        (path / name).write_bytes(whole[name])

    open_, verify = lambda: px.pde.open(path), lambda: px.pde.open(path, verify=True)
    again = "Copy the dataset again, or delete"
    for name in ("fields.npy", "residuals.npy", "checksums.npy"):
        right = rf"{name} must hold \w+32\[6.*as its header says, got .*{again}"
        damaged(name, whole[name][:-4], right, open_)
        damaged(name, whole[name] + b"1234", right, make)
        damaged(name, b"", right, open_)
        flipped = bytearray(whole[name])
        flipped[-1] ^= 16  # of the last sample, and still finite
        only = r"1 of 6 samples with another checksum, the first of them \[5\]\. "
        damaged(name, bytes(flipped), only + again, verify)
        grow = lambda: make(7)
        least = rf"{name} must hold the first 6 samples, \d+ bytes.*{again}"
        damaged(name, whole[name][:-4], least, grow)
        (path / "header.json").write_bytes(text)
        damaged(name, bytes(flipped), only.replace("6", "7") + again, grow)
        (path / "header.json").write_bytes(text)
        for other, content in whole.items():
            (path / other).write_bytes(content)
        (path / name).unlink()
        with pytest.raises(ValueError, match=rf"{name} must hold .*No such file"):
            open_()
        (path / name).write_bytes(whole[name])
    verify().verify()
    for content in (text[:-9], b"[]", b"\xff", text.replace(b'"n": 6', b'"n": 5')):
        damaged(
            "header.json", content, rf"header.json must be .*, got .*{again}", open_
        )
    older = text.replace(b'"format": 2', b'"format": 1')
    damaged("header.json", older, "must have format 2, got 1", open_)
    np.testing.assert_array_equal(make(8)[:6], made[:])


@pytest.mark.slow
def test_a_whole_dataset_is_opened_and_not_made_again(rod, tmp_path, monkeypatch):
    px.pde.generate(rod, 3, key=KEY, path=tmp_path / "d", progress=False)
    monkeypatch.setattr(_generate, "_go_on", None)
    again = px.pde.generate(rod, 3, key=KEY, path=tmp_path / "d", progress=False)
    opened = px.pde.open(os.fspath(tmp_path / "d"))
    np.testing.assert_array_equal(again[:], opened[:])
    assert opened.fields(1)._fields == ("source", "solution")
    assert_close(rod.relative_residual(opened.fields(1)), 0.0, 0, 1e-2)
    assert isinstance(px.pde.open(tmp_path / "d", rod).fields(1), Rod.Fields)
    assert repr(opened).startswith("<3 samples of Rod in '")


def test_another_equation_key_or_fewer_samples_are_refused(rod, tmp_path):
    make = lambda equation=rod, n=3, key=KEY: px.pde.generate(
        equation, n, key=key, path=tmp_path / "d", progress=False
    )
    make()
    with pytest.raises(ValueError, match=r"equation.grid.shape\[0\]: 17 in .*d, 9 now"):
        make(Rod(px.pde.Grid((9,))))
    with pytest.raises(ValueError, match=r"equation.strength: 1.0 .* 2.0 now\. Take a"):
        make(Rod(GRID, strength=2.0))
    with pytest.raises(ValueError, match=r"equation: rods\.Rod in .* rods\.Slab now"):
        make(Slab(GRID))
    with pytest.raises(ValueError, match=r"uint32\[2\] \[0, 5\] in .*\[0, 6\] now"):
        make(key=jax.random.key(6))
    with pytest.raises(ValueError, match=r"n=2 and 3 in it.*open\(path\)\[:2\]"):
        make(n=2)
    with pytest.raises(ValueError, match=r"rods\.Slab now"):
        px.pde.open(tmp_path / "d", Slab(GRID))
    with pytest.raises(FileNotFoundError, match="a directory with the file header"):
        px.pde.open(tmp_path)
    with pytest.raises(FileExistsError, match="new or a dataset, got"):
        px.pde.generate(rod, 2, key=KEY, path=tmp_path)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        make(n=0)


@pytest.mark.slow
def test_a_sample_that_is_not_finite_or_fails_is_named(rod, tmp_path):
    bad = jax.random.key_data(jax.random.fold_in(KEY, 5))

    class Broken(px.pde.AbstractEquation):
        """A rod whose sample 5 has no source."""

        Fields, given, kind = Rod.Fields, Rod.given, Rod.kind
        rod: Rod
        fails: bool = False

        @property
        def grid(self):  # type: ignore[override]
            return self.rod.grid

        def draw(self, *, key):
            hit = (jax.random.key_data(key) == bad).all()
            source = jnp.where(hit, jnp.nan, self.rod.draw(key=key)[0])
            if self.fails:
                source = eqx.error_if(source, hit, "no such rod.")
            return (source,)

        def solve(self, source):
            return self.rod.solve(source)

        def residual(self, fields):
            return self.rod.residual(fields)

        def scale(self, fields):
            return self.rod.scale(fields)

    make = lambda fails, name: px.pde.generate(
        Broken(rod, fails),
        8,
        key=KEY,
        path=tmp_path / name,
        batch_size=2,
        progress=False,
    )
    message = r"in source, solution of sample 5 of Broken.*fold_in\(key, 5\)\); the 4"
    with pytest.raises(ValueError, match=message):
        make(False, "nan")
    assert json.loads((tmp_path / "nan/header.json").read_text())["done"] == 4
    with pytest.raises(RuntimeError, match="no such rod") as caught:
        make(True, "failed")
    assert "samples 4 to 5 of Broken" in caught.value.__notes__[0]


# --- batches for training ------------------------------------------------------------


def test_batches_are_normalised_and_every_epoch_has_every_sample_once(rod, tmp_path):
    data = px.pde.generate(rod, 10, key=KEY, path=tmp_path / "d", progress=False)
    batch = data.batches(4, key=jax.random.key(1))
    found = np.concatenate([batch(step) for step in range(5)])  # two epochs
    expected = data.normalised()
    order = np.lexsort(expected[:, 3].T)
    for epoch in (found[:10], found[10:]):
        again = epoch[np.lexsort(epoch[:, 3].T)]
        np.testing.assert_array_equal(again, expected[order])
    assert not np.array_equal(found[:10], found[10:])
    # A function of key and step: in any order, and anew.
    np.testing.assert_array_equal(batch(1), found[4:8])
    other = data.batches(4, key=jax.random.key(2))
    assert not np.array_equal(other(0), batch(0))
    rows = _rows(data, batch(0))
    assert_close(data.normaliser.restore(batch(0)), data[rows], 1e-5)
    published = Normaliser.affine((2.0, 3.0), (0.0, 1.0))
    plain = data.batches(4, key=jax.random.key(1), normaliser=published)(0)
    assert_close(plain, data[rows] * [2, 3] + [0, 1], 1e-5)


def _rows(data, batch):
    pool = data.normalised()
    return [int(np.abs(pool - row).sum((1, 2)).argmin()) for row in batch]


@pytest.mark.slow
def test_fit_trains_on_the_batches_of_a_dataset(rod, tmp_path, x32):
    import optax

    data = px.pde.generate(rod, 16, key=KEY, path=tmp_path / "d", progress=False)
    process, batch = px.EDM(sigma_data=1.0), data.batches(8, key=KEY)
    model = px.Preconditioned(px.nn.MLP(34, 34, width=8, depth=1, key=KEY), process)
    result = px.fit(
        model,
        px.DenoisingScoreMatching(process),
        data=lambda step: batch(step).reshape(8, 34),
        steps=2,
        batch_size=8,
        optimiser=optax.sgd(1e-3),
        key=KEY,
        progress=False,
    )
    assert np.isfinite(result.history["loss"]).all()
