r"""Time derivatives of a field that leads with time.

$$ \partial_t u \approx \frac{u^{n+1} - u^n}{\Delta t}, \qquad
   \frac{u^{n+1} - u^{n-1}}{2 \Delta t}. $$
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require_positive
from ..types import ScalarLike, SpaceTime, typed

TimeScheme = Literal["forward", "backward", "midpoint", "central"]
# How many times have no derivative.
MISSING = {"forward": 1, "backward": 1, "midpoint": 1, "central": 2}


class TimeDerivative(eqx.Module):
    r"""$\partial_t u$ of a field "time *grid", for residuals in space and time.

    `at(u)` is the field at the times that have a derivative, so that a residual is

        ddt = TimeDerivative(dt, "backward")
        r = ddt(u) - nu * jax.vmap(Laplacian(grid))(ddt.at(u))

    | scheme | derivative | field beside it | order | a solver with this residual |
    |---|---|---|---|---|
    | "forward" | $(u^{n+1} - u^n)/\Delta t$ | $u^n$ | 1 | explicit Euler |
    | "backward" | the same | $u^{n+1}$ | 1 | implicit Euler |
    | "midpoint" | the same | $(u^n + u^{n+1})/2$ | 2 | implicit midpoint |
    | "central" | $(u^{n+1} - u^{n-1})/2\Delta t$ | $u^n$ | 2 | leapfrog |

    Of `m` times the first three leave `m - 1`, the last `m - 2`. `dt` is the distance
    of two stored times, not that of a solver's steps.
    """

    dt: ScalarLike
    scheme: TimeScheme = eqx.field(static=True, default="central")

    def __check_init__(self):
        if self.scheme not in MISSING:
            raise ValueError(
                f"scheme must be one of {tuple(MISSING)}, got {self.scheme!r}."
            )
        require_positive(dt=self.dt)  # type: ignore[arg-type]

    @typed
    def __call__(self, u: SpaceTime) -> Array:
        """The derivative at those times that have one."""
        self._check(u)
        dt = jnp.asarray(self.dt, u.dtype)
        if self.scheme == "central":
            return (u[2:] - u[:-2]) / (2 * dt)
        return jnp.diff(u, axis=0) / dt

    @typed
    def at(self, u: SpaceTime) -> Array:
        """The field at those times."""
        self._check(u)
        if self.scheme == "midpoint":
            return (u[1:] + u[:-1]) / 2
        return {"forward": u[:-1], "backward": u[1:], "central": u[1:-1]}[self.scheme]

    def _check(self, u):
        least = MISSING[self.scheme] + 1
        if len(u) < least:
            raise ValueError(
                f"a {self.scheme} derivative needs {least} times, got {len(u)} (shape "
                f"{u.shape}). Time is the first axis."
            )
