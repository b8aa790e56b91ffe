"""Figures from results; matplotlib is imported on use."""

from ._figures import COLOURS as COLOURS
from ._figures import error_along_path as error_along_path
from ._figures import trajectories as trajectories
from ._figures import work_precision as work_precision
