"""Conditions on clean samples: residuals, observations, exact projections."""

from ._constraint import AbstractConstraint as AbstractConstraint
from ._constraint import All as All
from ._constraint import Pinned as Pinned
from ._field_rows import at_times as at_times
from ._field_rows import box_averages as box_averages
from ._field_rows import disc_averages as disc_averages
from ._field_rows import fluxes as fluxes
from ._field_rows import integrals as integrals
from ._field_rows import interpolated as interpolated
from ._field_rows import line_averages as line_averages
from ._jensen import JensenGap as JensenGap
from ._jensen import covariance_term as covariance_term
from ._jensen import gap_of as gap_of
from ._jensen import jensen_gap as jensen_gap
from ._linear import Affine as Affine
from ._linear import Mean as Mean
from ._observation import Observation as Observation
from ._residual import Residual as Residual
from ._residual import from_residual as from_residual
