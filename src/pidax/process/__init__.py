"""Noise processes and time grids."""

from ._processes import EDM as EDM
from ._processes import VE as VE
from ._processes import VP as VP
from ._processes import AbstractLinearBeta as AbstractLinearBeta
from ._processes import AbstractProcess as AbstractProcess
from ._processes import RectifiedFlow as RectifiedFlow
from ._processes import SubVP as SubVP
from ._time_grids import karras as karras
from ._time_grids import uniform_angle as uniform_angle
from ._time_grids import uniform_log_snr as uniform_log_snr
from ._time_grids import uniform_time as uniform_time
