"""The same solves with NumPy and SciPy, one sample at a time, to compare with.

Each takes what an equation of pidax is given and returns its solution on the same grid
by the same discretisation, so that the difference of the two is a check of both.
"""

import numpy as np
import scipy.fft
import scipy.sparse as sp
import scipy.sparse.linalg


def poisson(f, shift=0.0):
    """(laplace + shift) u = f on nodes, u = 0 around: the sine transform."""
    n = f.shape[0]
    h = 1 / (n - 1)
    rates = (2 * np.cos(np.pi * np.arange(1, n - 1) / (n - 1)) - 2) / h**2
    symbol = rates[:, None] + rates[None, :] + shift
    inner = scipy.fft.dstn(f[1:-1, 1:-1], type=1, norm="ortho") / symbol
    u = np.zeros_like(f)
    u[1:-1, 1:-1] = scipy.fft.idstn(inner, type=1, norm="ortho")
    return u


def darcy(a, source=1.0):
    """-div(a grad u) = source on nodes, u = 0 around: five points, sparse direct."""
    n = a.shape[0]
    h = 1 / (n - 1)
    rows = (a[1:, 1:-1] + a[:-1, 1:-1]) / 2 / h**2  # faces across x
    columns = (a[1:-1, 1:] + a[1:-1, :-1]) / 2 / h**2
    middle = rows[1:] + rows[:-1] + columns[:, 1:] + columns[:, :-1]
    m = n - 2
    beside = -columns[:, 1:-1]
    beside = np.concatenate([beside, np.zeros((m, 1))], 1).ravel()[:-1]
    below = -rows[1:-1].ravel()
    matrix = sp.diags_array(
        [middle.ravel(), beside, beside, below, below],
        offsets=[0, 1, -1, m, -m],  # type: ignore[arg-type]
        format="csc",
    )
    u = np.zeros_like(a)
    load = np.full(m * m, source)
    u[1:-1, 1:-1] = scipy.sparse.linalg.spsolve(matrix, load).reshape(m, m)
    return u


class NavierStokes:
    """Vorticity by ETDRK4 (Kassam & Trefethen 2005) in NumPy, over all samples."""

    def __init__(self, shape, viscosity, forcing, step):
        n = shape[0]
        k = 2 * np.pi * np.fft.fftfreq(n, 1 / n)
        self.kx, self.ky = np.meshgrid(
            k, 2 * np.pi * np.arange(n // 2 + 1), indexing="ij"
        )
        self.k2 = self.kx**2 + self.ky**2
        number = np.maximum(np.abs(self.kx), np.abs(self.ky)) / (2 * np.pi)
        self.kept = 3 * number < n
        self.inverse = self.kept / np.where(self.k2 == 0, np.inf, self.k2)
        self.forcing = np.fft.rfft2(forcing)
        self.step = step
        z = -viscosity * self.k2 * step
        points = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
        r = z[..., None] + points  # a circle around each; real parts of the means
        mean = lambda values: step * np.real(np.mean(values, -1))
        self.whole, self.half = np.exp(z), np.exp(z / 2)
        self.q = mean((np.exp(r / 2) - 1) / r)
        self.first = mean((-4 - r + np.exp(r) * (4 - 3 * r + r**2)) / r**3)
        self.middle = 2 * mean((2 + r + np.exp(r) * (r - 2)) / r**3)
        self.last = mean((-4 - 3 * r - r**2 + np.exp(r) * (4 - r)) / r**3)

    def nonlinear(self, c):
        """-u . grad of the vorticity, as products of velocities, and the forcing."""
        back = lambda c: np.fft.irfft2(c, s=c.shape[-2:-1] * 2)
        u = back(1j * self.ky * self.inverse * c)
        v = back(-1j * self.kx * self.inverse * c)
        cross = np.fft.rfft2(u * v) * (self.kx**2 - self.ky**2)
        other = np.fft.rfft2(v**2 - u**2) * self.kx * self.ky
        return self.kept * (cross + other) + self.forcing

    def advance(self, c):
        """One step of the coefficients."""
        n0 = self.nonlinear(c)
        a = self.half * c + self.q * n0
        na = self.nonlinear(a)
        b = self.half * c + self.q * na
        nb = self.nonlinear(b)
        d = self.half * a + self.q * (2 * nb - n0)
        nd = self.nonlinear(d)
        new = self.first * n0 + self.middle * (na + nb) + self.last * nd
        return self.whole * c + new

    def solve(self, w, steps):
        """The vorticity after this many steps."""
        c = np.fft.rfft2(w)
        for _ in range(steps):
            c = self.advance(c)
        return np.fft.irfft2(c, s=w.shape[-2:])
