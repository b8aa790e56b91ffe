"""The array types of the package, and the check that enforces them.

Public functions that take samples are decorated with [`typed`][pidax.types.typed]:
jaxtyping and beartype check their array arguments when they are called, so that a
wrong shape is reported by argument, axis and size. Set the environment variable
`JAXTYPING_DISABLE=1` (or `jaxtyping.config.update("jaxtyping_disable", True)`) to
switch the check off. Under `jax.jit` it costs nothing after the first trace.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

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
    TypeCheckError,
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
            try:
                return checked(*args, **kwargs)
            except TypeCheckError as error:
                if isinstance(error, ShortTypeCheckError):  # of a call inside
                    raise
                given = _given_class(fn, args, kwargs)
                raise given or ShortTypeCheckError(_short(str(error), fn)) from None

        return call


class ShortTypeCheckError(TypeCheckError):
    """The beginning of jaxtyping's message; all arguments in full are left out."""


_RULE = re.compile(r"\n-+\n")
_AXES = re.compile(r"The current values for each jaxtyping axis .*?\n(.*)", re.DOTALL)
_LONGEST = 300  # columns of a line of the message


def _short(message: str, fn: Callable[..., Any]) -> str:
    """The function, the argument, what came and what was expected, and the axes."""
    private = f"{fn.__module__}.{fn.__qualname__}"
    public = ".".join(p for p in private.split(".") if not p.startswith("_"))
    public = private if "<locals>" in private else public.removesuffix(".__init__")
    head = _RULE.split(message, maxsplit=1)[0].replace(private, public)
    lines: list[str] = []
    for line in head.splitlines():
        if re.match(r"(Type-check|The problem|Actual value|Expected type)", line):
            lines.append(line[:_LONGEST])
        elif lines and lines[-1].startswith("Actual value") and line.strip():
            # What follows are the insides of a large value.
            lines[-1] = lines[-1].removesuffix("...)").rstrip("(") + "(...)"
    axes = _AXES.search(message)
    if axes is not None:
        sizes = ", ".join(axes.group(1).split("\n")[0].split())
        lines += [f"Sizes of the axes so far: {sizes}."] * bool(sizes)
    return "\n".join(lines)


def _given_class(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ValueError | None:
    """A better error for a class where an instance is expected: `EDM` for `EDM()`."""
    try:
        given = inspect.signature(fn).bind(*args, **kwargs).arguments
    except TypeError:
        return None
    for name, value in given.items():
        hint = getattr(fn, "__annotations__", {}).get(name)
        for kind in (hint, *get_args(hint)):
            if not (isinstance(value, type) and isinstance(kind, type)):
                continue
            if issubclass(value, kind) and not issubclass(kind, type):
                return ValueError(
                    f"{name} must be an instance of {kind.__name__}, got the class "
                    f"{value.__name__}. Make one of it: {value.__name__}(...)."
                )
    return None


# What a user may pass, and what a function returns. NumPy arrays are welcome as input.
Scalar: TypeAlias = Float[Array, ""]
Number: TypeAlias = Array | np.ndarray | np.number | float | int
ScalarLike: TypeAlias = Real[Number, ""]
# What a network is told of the noise level: a number, or two (see nn.two_times).
NoiseLike: TypeAlias = Real[Number, ""] | Real[Number, "2"]
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
# The same fields in the coordinates in which a model sees them.
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
