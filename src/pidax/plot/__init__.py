"""Figures from results; matplotlib is imported on use."""

from ._axes import COLOURS as COLOURS
from ._comparison import errors as errors
from ._comparison import side_by_side as side_by_side
from ._comparison import trajectories as trajectories
from ._fields import fields as fields
from ._fields import residuals as residuals
from ._fields import spectra as spectra
from ._figures import error_along_path as error_along_path
from ._figures import paths as paths
from ._figures import work_precision as work_precision
from ._grid import sample_grid as sample_grid
from ._planar import samples as samples
from ._training import loss_curves as loss_curves
