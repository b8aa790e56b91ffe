"""Functions of arrays that say how far apart two things are.

Two kinds. *Errors* compare samples that belong together, one to one: a fast solution
and a converged one from the same noise. *Distances between sets* compare two laws by
their draws, in any order and number. Samples may have any shape and are flattened;
NumPy and JAX arrays are welcome, and everything but `error_summary` compiles under
`jax.jit`, vmaps and differentiates.

A distance between two finite sets of one law is not zero. Whoever reports one reports
beside it the same distance between two sets that are known to have one law, at the
same sizes: data against held-out data.
"""

from ._bootstrap import Interval as Interval
from ._bootstrap import bootstrap as bootstrap
from ._errors import error_summary as error_summary
from ._errors import rms_error as rms_error
from ._errors import sample_errors as sample_errors
from ._frechet import FeatureStatistics as FeatureStatistics
from ._frechet import frechet_distance as frechet_distance
from ._frechet import inception_score as inception_score
from ._kernel_distances import energy_distance as energy_distance
from ._kernel_distances import median_bandwidth as median_bandwidth
from ._kernel_distances import mmd as mmd
from ._moments import amplitude_ratio as amplitude_ratio
from ._moments import mean_error as mean_error
from ._moments import spread_error as spread_error
from ._perceptual import LPIPS as LPIPS
from ._spectrum import Spectrum as Spectrum
from ._spectrum import radial_spectrum as radial_spectrum
from ._wasserstein import directions as directions
from ._wasserstein import sliced_wasserstein as sliced_wasserstein
from ._wasserstein import wasserstein_1d as wasserstein_1d
