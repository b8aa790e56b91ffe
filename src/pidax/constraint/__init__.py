"""What a clean sample must satisfy: residuals, observations, exact projections."""

from ._base import AbstractConstraint as AbstractConstraint
from ._residual import Residual as Residual
