"""A linear problem with a known answer: Poisson's equation and its exact student."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax.constraint import Observation, Residual


class Control(NamedTuple):
    """The equation, its student, what a truth is like, and the joint law."""

    equation: px.pde.Poisson
    student: px.ExactStudent
    residual: Residual
    truth: Any  # PoissonFields
    sizes: dict  # of the fields: standard deviations
    matrix: np.ndarray  # fields = matrix @ unit latent, flattened


@functools.cache
def control(side: int, modes: int, x64: bool) -> Control:
    """Of one precision: the session's, which is an argument to be remembered by."""
    grid = px.pde.Grid((side, side))
    source = px.pde.Matern(grid, alpha=2, tau=3, modes=modes)
    equation = px.pde.Poisson(grid, source)
    law = equation.law()
    teacher = px.Gaussian(law.mean, px.denoiser.Covariance.low_rank(law.factor))
    student = px.ExactStudent(teacher, px.EDM())
    identity = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))
    stds = np.sqrt((np.asarray(law.factor) ** 2).sum(-1).mean((0, 1)))
    sizes = dict(zip(equation.names, stds.tolist(), strict=True))
    truth = equation.sample(key=jax.random.key(3))
    zero = jnp.zeros(student.shape)
    matrix = 80.0 * jax.jacfwd(student.sample)(zero)  # EDM's sigma at T
    size = zero.size
    residual = Residual(equation, identity)
    flat = np.asarray(matrix).reshape(size, size)
    return Control(equation, student, residual, truth, sizes, flat)


def noise_of(problem: Control, share: float) -> dict[str, float]:
    """Noise of a share of each field's standard deviation."""
    return {name: share * size for name, size in problem.sizes.items()}


class Observed(NamedTuple):
    """An observation as linear algebra: `values = rows @ latent + noise * eta`."""

    where: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    noise: np.ndarray

    def optimum(self, start: np.ndarray, eta: np.ndarray | None = None) -> np.ndarray:
        """The minimiser of 1/2 |e - start|^2 + 1/2 |(rows e - values - s eta)/s|^2."""
        moved = 0.0 if eta is None else self.noise * eta
        gram = self.rows @ self.rows.T + np.diag(self.noise**2)
        apart = self.values + moved - self.rows @ start
        return start + self.rows.T @ np.linalg.solve(gram, apart)

    def law(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the fields given the values, prior N(0, I)."""
        gram = self.rows @ self.rows.T + np.diag(self.noise**2)
        gain = self.rows.T @ np.linalg.inv(gram)
        cov = np.eye(self.rows.shape[1]) - gain @ self.rows
        std = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", matrix, cov, matrix), 0))
        return matrix @ (gain @ self.values), std


def observed(problem: Control, observation: Observation) -> Observed:
    index = np.flatnonzero(np.asarray(observation.mask))
    at = lambda a: np.asarray(a, np.float64).ravel()[index]
    rows = problem.matrix[index].astype(np.float64)
    return Observed(index, rows, at(observation.values), at(observation.noise))
