"""What holds on one side of a domain."""

import abc

import equinox as eqx
from jaxtyping import Array

from ..types import ElementwiseLike


class AbstractSide(eqx.Module):
    """The condition on one side (an end, an edge, a face) of a grid."""

    @property
    @abc.abstractmethod
    def data(self) -> ElementwiseLike:
        """The number or array that the condition prescribes on the side."""

    @abc.abstractmethod
    def homogeneous(self) -> "AbstractSide":
        """The same kind of condition with zero for its data."""


class Dirichlet(AbstractSide):
    r"""$u = g$ on the side: a wall at a temperature, a held membrane.

    `value` is $g$: a number, or an array over the points of the side.
    """

    value: ElementwiseLike | Array = 0.0

    @property
    def data(self):
        return self.value

    def homogeneous(self) -> "Dirichlet":
        return Dirichlet()


class Neumann(AbstractSide):
    r"""$\partial u / \partial n = g$ on the side, $n$ pointing out of the domain.

    `slope` is $g$: a number, or an array over the points of the side. In the flux form
    $\nabla\cdot(a\nabla u)$ the flux into the domain through the side is $a\, g$.
    """

    slope: ElementwiseLike | Array = 0.0

    @property
    def data(self):
        return self.slope

    def homogeneous(self) -> "Neumann":
        return Neumann()


class Periodic(AbstractSide):
    """The side is glued to the opposite one, which must be periodic too."""

    @property
    def data(self):
        return 0.0

    def homogeneous(self) -> "Periodic":
        return self
