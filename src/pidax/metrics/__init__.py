"""Errors and distances of arrays of samples.

*Structure* is of one field: connections, segments, pairs of points, shocks. *Errors*
compare pairs of samples: a fast solution and an accurate one from the same
noise. *Distances between sets* compare two distributions by their samples, in any order
and number. Samples may have any shape and are flattened. Arrays may be of NumPy or JAX,
and all functions but `error_summary` and `c2st` work under `jax.jit`, `jax.vmap` and
`jax.grad`.

The distance between two finite sets of the same distribution is not zero. Report with
it the same distance between two sets of the same distribution and sizes: data against
held-out data.
"""

from ._bootstrap import Interval as Interval
from ._bootstrap import bootstrap as bootstrap
from ._classifier import C2ST as C2ST
from ._classifier import c2st as c2st
from ._errors import error_summary as error_summary
from ._errors import rms_error as rms_error
from ._errors import sample_errors as sample_errors
from ._forecasts import Coverage as Coverage
from ._forecasts import RankHistogram as RankHistogram
from ._forecasts import Tarp as Tarp
from ._forecasts import brier as brier
from ._forecasts import coverage as coverage
from ._forecasts import crps as crps
from ._forecasts import energy_score as energy_score
from ._forecasts import rank_histogram as rank_histogram
from ._forecasts import spread_skill_ratio as spread_skill_ratio
from ._forecasts import tarp as tarp
from ._forecasts import wilson as wilson
from ._frechet import FeatureStatistics as FeatureStatistics
from ._frechet import frechet_distance as frechet_distance
from ._frechet import inception_score as inception_score
from ._increments import increment_kurtosis as increment_kurtosis
from ._increments import increment_skewness as increment_skewness
from ._increments import increments as increments
from ._increments import structure_functions as structure_functions
from ._kernel_distances import energy_distance as energy_distance
from ._kernel_distances import median_bandwidth as median_bandwidth
from ._kernel_distances import mmd as mmd
from ._moments import amplitude_ratio as amplitude_ratio
from ._moments import mean_error as mean_error
from ._moments import spread_error as spread_error
from ._perceptual import LPIPS as LPIPS
from ._point_values import density_distance as density_distance
from ._point_values import interface_share as interface_share
from ._spectrum import Spectrum as Spectrum
from ._spectrum import radial_spectrum as radial_spectrum
from ._structure import Shocks as Shocks
from ._structure import components as components
from ._structure import connects as connects
from ._structure import lineal_path as lineal_path
from ._structure import shocks as shocks
from ._structure import two_point as two_point
from ._topology import euler_number as euler_number
from ._wasserstein import directions as directions
from ._wasserstein import sliced_wasserstein as sliced_wasserstein
from ._wasserstein import wasserstein_1d as wasserstein_1d
