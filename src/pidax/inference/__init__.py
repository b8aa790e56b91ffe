"""Refinement of one-step samples under constraints."""

from ._cost import Cost as Cost
from ._cost import Training as Training
from ._gauss_newton import CGLS as CGLS
from ._gauss_newton import DampedGaussNewton as DampedGaussNewton
from ._minimisers import LBFGS as LBFGS
from ._minimisers import AbstractMethod as AbstractMethod
from ._minimisers import Adam as Adam
from ._minimisers import GaussNewton as GaussNewton
from ._minimisers import Optimistix as Optimistix
from ._problem import Problem as Problem
from ._problem import RefinedSample as RefinedSample
from ._problem import refine_sample as refine_sample
from ._refine import History as History
from ._refine import Refined as Refined
from ._refine import refine as refine
