r"""A bistable medium at rest: several stable solutions for one source.

$$ -\epsilon^2 \Delta u + u^3 - u = s\, g, \qquad u = 0 \text{ on the sides.} $$

It is where the gradient flow $u_t = \epsilon^2\Delta u + u - u^3 + s\,g$ comes to rest.
The flow is solved by steps that are implicit in the diffusion and in a term $c\,u$,

$$ (1 + c\,\delta - \delta\epsilon^2\Delta)\, u^{n+1}
   = u^n + \delta\,(u^n - (u^n)^3 + c\,u^n + s\,g), $$

which is stable for $c \ge (3\max|u|^2 - 1)/2$, and whose rest does not depend on
$\delta$. Then Newton's method makes the residual zero to rounding.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jaxtyping import Array

from .._checks import require, require_positive
from ..types import Field, FieldLike, Key, Scalar, ScalarLike, Shape, Stacked, typed
from ._determinant import log_determinant
from ._diffusion import Laplacian
from ._elliptic import AbstractElliptic
from ._equation import Kind, rms
from ._grid import Dirichlet, Grid
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._transform import Transform

STEP = 1.0  # of the gradient flow; the rates of u are of order one
MOST_STEPS = 50_000
LARGEST = 1.3  # |u| of a solution is below it, unless its source is large


class BistableFields(NamedTuple):
    """A source, the field from which its flow starts, and the solution it comes to."""

    source: Field
    start: Field
    solution: Field


class Bistable(AbstractElliptic[BistableFields]):
    r"""$-\epsilon^2\Delta u + u^3 - u = s\,g$, $u = 0$ on the sides: phases at rest.

    For one source $g$ there are several stable solutions, and which of them is found
    depends on where the gradient flow starts. So the given fields are two: `source`
    and `start`, and `solve(source, start)` follows the flow from the start to rest,
    then takes Newton's steps: the residual is zero to rounding. The law of a sample is
    the law of both; the solutions of one source have the shares of their basins.

    A diffusion model sees the source and the solution, `stack`, and not the start.
    `unstack` takes the solution for its start: a solution is where its own flow stays.
    So `resolve` goes *from the sample* to the nearest rest, and "generate the source,
    then solve" from any one start finds one branch of several.

    `width` is $\epsilon$, of the order of the width of a wall between phases,
    `strength` is $s$. The default source is `Matern(grid)` with a standard deviation
    near 0.05, `start` the same law with one near 1. The flow is slow where walls are
    nearly at rest; a start that does not come to rest in 50,000 steps, or from which
    Newton's steps do not arrive, is an error.

    Second order, 5 points. Newton's matrix is dense: use up to some thousand unknowns.
    """

    grid: Grid
    source: AbstractRandomField
    start: AbstractRandomField
    width: ScalarLike
    strength: ScalarLike
    Fields: ClassVar[type[Any]] = BistableFields
    given: ClassVar[tuple[str, ...]] = ("source", "start")
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid | None = None,
        *,
        width: ScalarLike = 0.08,
        strength: ScalarLike = 1.0,
        source: Law | None = None,
        start: Law | None = None,
    ):
        self.grid = Grid((16, 16)) if grid is None else grid
        self.width, self.strength = width, strength
        mild = Matern(self.grid, scale=SOURCE)
        wild = Matern(self.grid, scale=START)
        self.source = as_law(self.grid, mild if source is None else source)
        self.start = as_law(self.grid, wild if start is None else start)

    def __check_init__(self):
        require_positive(width=self.width, strength=self.strength)
        sides = [side for pair in self.grid.boundary for side in pair]
        plain = all(isinstance(side, Dirichlet) for side in sides)
        if not plain or any(np.any(np.asarray(side.data) != 0) for side in sides):
            raise ValueError(
                f"Bistable holds zero on every side, got {self.grid}. Use "
                "Grid((16, 16))."
            )

    def draw(self, *, key: Key) -> tuple[Field, Field]:
        first, second = jax.random.split(key)
        return self.source.sample(key=first), self.start.sample(key=second)

    @typed
    def solve(self, source: FieldLike, start: FieldLike) -> BistableFields:
        """The rest of the flow from `start`; exact gradients by the source."""
        self.grid.check(source=source, start=start)
        g, start = jnp.asarray(source), jnp.asarray(start)
        force = self.grid.restrict(self._force(g))
        inner = self._rest(force, self.grid.restrict(start))
        # Newton's steps square the error: after one of 1e-8 nothing is left.
        near_enough = float(jnp.finfo(g.dtype).eps) ** 0.5
        solver = optx.Newton(rtol=near_enough, atol=near_enough)
        found = optx.root_find(
            lambda u, force: self._left(u) - force,
            solver,
            inner,
            args=force,
            max_steps=20,
            throw=False,
        )
        u = found.value
        near = jnp.max(jnp.abs(u - inner)) < 0.1
        left = jnp.max(jnp.abs(self._left(u) - force))
        u = require(
            u,
            near & (left < _small(g.dtype)),
            "the gradient flow of Bistable must come to rest, and Newton's steps near "
            f"it to a solution; they did not within {MOST_STEPS} steps. Start "
            "elsewhere, or take a larger width.",
        )
        return BistableFields(g, start, self.grid.pad(u))

    def residual(self, fields: BistableFields) -> Field:
        self.check_fields(fields)
        self.grid.check(**fields._asdict())
        u = self.grid.restrict(jnp.asarray(fields.solution))
        force = self.grid.restrict(self._force(jnp.asarray(fields.source)))
        return self.grid.pad(self._left(u) - force)

    def scale(self, fields: BistableFields) -> Scalar:
        r"""The norms of $\epsilon^2\Delta u$, $u^3$, $u$ and $s\,g$, together."""
        u = jnp.asarray(fields.solution)
        terms = self._diffused(u), u**3, u, self._force(jnp.asarray(fields.source))
        inner = [self.grid.pad(self.grid.restrict(term)) for term in terms]
        return sum((rms(term) for term in inner[1:]), rms(inner[0]))

    def log_determinant(self, fields: BistableFields) -> Scalar:
        r"""Of $-\epsilon^2\Delta + 3u^2 - 1$."""
        self.check_fields(fields)
        structure = jax.ShapeDtypeStruct(
            self.grid.unknown_shape, jnp.result_type(fields.solution)
        )
        tag = lx.symmetric_tag
        return log_determinant(
            lx.FunctionLinearOperator(self._jacobian(fields.solution), structure, tag)
        )

    def stability(self, fields: BistableFields) -> Scalar:
        r"""The lowest eigenvalue of $-\epsilon^2\Delta + 3u^2 - 1$: positive if stable.

        Small perturbations of a solution decay (or grow) at least (at most) at this
        rate. Dense: up to some thousand unknowns.
        """
        self.check_fields(fields)
        shape = self.grid.unknown_shape
        unit = jnp.eye(int(np.prod(shape)), dtype=jnp.result_type(fields.solution))
        product = self._jacobian(fields.solution)
        matrix = jax.vmap(lambda v: product(v.reshape(shape)).ravel())(unit)
        return jnp.linalg.eigvalsh(matrix)[0]

    @property
    def stacked_shape(self) -> Shape:
        return (*self.grid.shape, 2)

    def stack(self, fields: BistableFields) -> Stacked:
        """Source and solution: what a diffusion model sees."""
        return jnp.stack(
            [jnp.asarray(fields.source), jnp.asarray(fields.solution)], axis=-1
        )

    def unstack(self, array: Stacked) -> BistableFields:
        """The fields of one array, with the solution for its own start."""
        if array.shape != self.stacked_shape:
            raise ValueError(
                f"Bistable is stacked as source and solution, shape "
                f"{self.stacked_shape}, got shape {array.shape}. For a batch, jax.vmap."
            )
        source, solution = jnp.moveaxis(array, -1, 0)
        return BistableFields(source, solution, solution)

    def _force(self, source: Array) -> Array:
        return jnp.asarray(self.strength, source.dtype) * source

    def _diffused(self, u: Field) -> Field:
        return jnp.asarray(self.width, u.dtype) ** 2 * Laplacian(self.grid)(u)

    def _left(self, u: Array) -> Array:
        """The left side, of unknowns."""
        return u**3 - u - self.grid.restrict(self._diffused(self.grid.pad(u)))

    def _jacobian(self, solution: FieldLike) -> Any:
        u = self.grid.restrict(solution)
        return lambda v: jax.jvp(self._left, (u,), (v,))[1]

    def _rest(self, force: Array, start: Array) -> Array:
        """Where the gradient flow rests."""
        force, u = jax.lax.stop_gradient((force, start))
        c = 1.5 * jnp.maximum(jnp.max(jnp.abs(u)), LARGEST) ** 2
        transform = Transform(self.grid)
        eigenvalues = jnp.asarray(transform.eigenvalues, u.dtype)
        width = jnp.asarray(self.width, u.dtype)
        symbol = 1 / (1 + STEP * c - STEP * width**2 * eigenvalues)

        def step(carry: Any) -> Any:
            u, count, _ = carry
            right = u + STEP * (u - u**3 + c * u + force)
            new = transform.multiply(symbol, right)
            return new, count + 1, jnp.max(jnp.abs(new - u))

        def moving(carry: Any) -> Any:
            _, count, change = carry
            return (count < MOST_STEPS) & (change > _small(u.dtype) ** 0.5)

        first = u, jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, u.dtype)
        return jax.lax.while_loop(moving, step, first)[0]


def _small(dtype: Any) -> float:
    """2e-13 in float64, 1e-4 in float32: what rounding leaves of the residual."""
    return 1e3 * float(jnp.finfo(dtype).eps)


# Of Matern(Grid((16, 16))): for deviations of 0.05 and 1, as a root mean square.
SOURCE, START = 0.165, 3.3
