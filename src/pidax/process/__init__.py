"""Charts of the one ODE: noise processes and time grids."""

from ._base import RATIO_CAP as RATIO_CAP
from ._base import AbstractProcess as AbstractProcess
from ._base import level_scale as level_scale
from ._base import not_negative as not_negative
from ._base import ratio_ends as ratio_ends
from ._grids import karras as karras
from ._grids import uniform_angle as uniform_angle
from ._grids import uniform_log_snr as uniform_log_snr
from ._grids import uniform_time as uniform_time
from ._processes import EDM as EDM
from ._processes import VE as VE
from ._processes import VP as VP
from ._processes import AbstractLinearBeta as AbstractLinearBeta
from ._processes import RectifiedFlow as RectifiedFlow
from ._processes import SubVP as SubVP
