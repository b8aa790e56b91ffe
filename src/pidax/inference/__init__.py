"""Generation under constraint: one-step samples moved until they satisfy it."""

from ._cgls import CGLS as CGLS
from ._cost import Cost as Cost
from ._cost import Training as Training
from ._gauss_newton import DampedGaussNewton as DampedGaussNewton
from ._methods import LBFGS as LBFGS
from ._methods import AbstractMethod as AbstractMethod
from ._methods import Adam as Adam
from ._methods import GaussNewton as GaussNewton
from ._methods import Optimistix as Optimistix
from ._refine import refine as refine
from ._refined import History as History
from ._refined import Refined as Refined
