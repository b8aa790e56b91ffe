"""Samplers beyond one step after another."""

from ._analytic_first_step import analytic_first_step as analytic_first_step
from ._found_grid import FoundGrid as FoundGrid
from ._found_grid import optimise_grid as optimise_grid
from ._parallel_in_time import ParallelPath as ParallelPath
from ._parallel_in_time import parareal as parareal
from ._parallel_in_time import picard as picard
