"""What the steppers of exponax say of themselves.

exponax is not imported here: a stepper of it exists only where it has been. Importing
exponax takes seconds, and brings Matplotlib.
"""

import inspect
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._fourier import check_periodic
from ._grid import Grid


def check_exponax(stepper: Any, grid: Grid) -> None:
    """The grid is the stepper's: periodic, with its points and its extent."""
    if not hasattr(stepper, "num_points") or not hasattr(stepper, "domain_extent"):
        return
    name = type(stepper).__name__
    check_periodic(grid, name)
    n, length = stepper.num_points, float(stepper.domain_extent)
    shape = (n,) * stepper.num_spatial_dims
    same = np.allclose(grid.lengths, length, rtol=1e-5, atol=0)
    if grid.shape != shape or not same:
        raise ValueError(
            f"the grid must be that of {name}, {shape} points on {length:g} along "
            f"every axis, got {grid}. Write Grid({shape}, extent=(0.0, {length:g}), "
            "boundary=Periodic()), or make the stepper for this grid."
        )


def spectral_terms(stepper: Any, u: Array) -> tuple[Array, ...] | None:
    """The linear and the nonlinear term of a stepper that has both in Fourier series.

    None for other functions, and for steppers that step in variables of their own.
    """
    exponax: Any = sys.modules.get("exponax")
    if exponax is None or not isinstance(stepper, exponax.BaseStepper):
        return None
    base = exponax.BaseStepper
    methods = ("step", "step_fourier", "__call__")
    if any(getattr(type(stepper), m) is not getattr(base, m) for m in methods):
        return None
    ndim, n = stepper.num_spatial_dims, stepper.num_points
    axes = tuple(range(1, ndim + 1))
    waves = exponax.spectral.build_derivative_operator(ndim, stepper.domain_extent, n)
    hat = jnp.fft.rfftn(u, axes=axes)
    back = lambda hat: jnp.fft.irfftn(hat, u.shape[1:], axes=axes)
    linear = stepper._build_linear_operator(waves) * hat
    nonlinear = stepper._build_nonlinear_fun(waves)(hat)
    return back(linear), back(nonlinear)


def rebuilt(stepper: Any, dt: float) -> Any | None:
    """The same stepper with another time step, or None if it is not exponax's."""
    exponax: Any = sys.modules.get("exponax")
    if exponax is None or not isinstance(stepper, exponax.BaseStepper):
        return None
    order = type(stepper._integrator).__name__.removeprefix("ETDRK")
    known = {**vars(stepper), "dt": dt, "order": int(order)}
    takes = inspect.signature(type(stepper)).parameters
    given = {name: known[name] for name in takes if name in known}
    missing = [
        p.name for p in takes.values() if p.default is p.empty and p.name not in given
    ]
    if missing:
        return None
    with jax.numpy_dtype_promotion("standard"):
        return type(stepper)(**given)
