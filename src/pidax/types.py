"""The array types of the package, each named once, and the check that enforces them.

Public functions that take samples are decorated with [`typed`][pidax.types.typed]:
jaxtyping and beartype check their array arguments when they are called, so that a
wrong shape is reported by argument, axis and size. Set the environment variable
`JAXTYPING_DISABLE=1` (or `jaxtyping.config.update("jaxtyping_disable", True)`) to
switch the check off. Under `jax.jit` it costs nothing after the first trace.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from jaxtyping import (
    Array,
    Bool,
    Float,
    Int,
    Integer,
    PRNGKeyArray,
    PyTree,
    Real,
    jaxtyped,
)

_F = TypeVar("_F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def typed(fn: _F, /) -> _F:
        """Check the array arguments of `fn` at every call."""
        ...

else:

    def typed(fn: _F, /) -> _F:
        """Check the array arguments of `fn` at every call."""
        checked = None  # made at the first call: to make them all slows the import

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            if checked is None:
                from beartype import beartype  # a tenth of the package's import

                checked = jaxtyped(typechecker=beartype)(fn)
            return checked(*args, **kwargs)

        return call


# What a user may pass, and what a function returns. NumPy arrays are welcome as input.
Scalar: TypeAlias = Float[Array, ""]
Number: TypeAlias = Array | np.ndarray | np.number | float | int
ScalarLike: TypeAlias = Real[Number, ""]
WholeLike: TypeAlias = Integer[Array | np.ndarray | np.integer | int, ""]
Sample: TypeAlias = Float[Array, "*event"]
SampleLike: TypeAlias = Float[Array | np.ndarray, "*event"]
Batch: TypeAlias = Float[Array, "batch *event"]
BatchLike: TypeAlias = Float[Array | np.ndarray, "batch *event"]
Times: TypeAlias = Float[Array, " time"]
TimesLike: TypeAlias = Real[Array | np.ndarray, " time"] | Sequence[float | int]
Elementwise: TypeAlias = Float[Array, "..."]
ElementwiseLike: TypeAlias = Real[Number, "..."]
# A field on a grid: a value at each of its points; and one that leads with time.
Field: TypeAlias = Float[Array, "*grid"]
FieldLike: TypeAlias = Float[Array | np.ndarray, "*grid"]
Field1: TypeAlias = Float[Array, " x"]
Field2: TypeAlias = Float[Array, "x y"]
Field3: TypeAlias = Float[Array, "x y z"]
SpaceTime: TypeAlias = Float[Array, "time *grid"]
Stacked: TypeAlias = Float[Array, "*grid channel"]
StackedLike: TypeAlias = Float[Array | np.ndarray, "*grid channel"]
# The same fields in the chart in which a model sees them, of the chart's own shape.
Coordinates: TypeAlias = Float[Array, "*coordinate"]
CoordinatesLike: TypeAlias = Float[Array | np.ndarray, "*coordinate"]
Flag: TypeAlias = Bool[Array, ""]
Count: TypeAlias = Int[Array, "..."]
Key: TypeAlias = PRNGKeyArray
Shape: TypeAlias = tuple[int, ...]
# A class label, a one-hot, or any pytree of arrays a user's network understands.
Condition: TypeAlias = PyTree[Any]


def at_least_float32(dtype: Any) -> np.dtype:
    """The dtype in which losses, residuals and sums over numbers of `dtype` are taken.

    Never less than float32, whatever precision a network has.
    """
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype
