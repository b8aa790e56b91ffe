"""Figures from results; matplotlib is imported on use."""

from ._axes import COLOURS as COLOURS
from ._fields import fields as fields
from ._fields import residuals as residuals
from ._fields import spectra as spectra
from ._quantities import quantities as quantities
from ._samples import sample_grid as sample_grid
from ._samples import samples as samples
from ._solutions import error_along_path as error_along_path
from ._solutions import errors as errors
from ._solutions import paths as paths
from ._solutions import side_by_side as side_by_side
from ._solutions import trajectories as trajectories
from ._solutions import work_precision as work_precision
from ._training import loss_curves as loss_curves
from ._uncertainty import posterior as posterior
