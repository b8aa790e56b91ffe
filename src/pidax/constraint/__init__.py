"""What a clean sample must satisfy: residuals, observations, exact projections."""

from ._affine import Affine as Affine
from ._all import All as All
from ._base import AbstractConstraint as AbstractConstraint
from ._mean import Mean as Mean
from ._observation import Observation as Observation
from ._residual import Residual as Residual
