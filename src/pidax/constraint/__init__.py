"""What a clean sample must satisfy: residuals, observations, exact projections."""

from ._affine import Affine as Affine
from ._all import All as All
from ._base import AbstractConstraint as AbstractConstraint
from ._jensen import JensenGap as JensenGap
from ._jensen import covariance_term as covariance_term
from ._jensen import gap_of as gap_of
from ._jensen import jensen_gap as jensen_gap
from ._mean import Mean as Mean
from ._observation import Observation as Observation
from ._residual import Residual as Residual
