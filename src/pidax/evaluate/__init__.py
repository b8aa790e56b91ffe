"""ODE solver and student from the same noise: errors, distances and cost."""

from ._compare import compare as compare
from ._report import FirstAnswer as FirstAnswer
from ._report import Floor as Floor
from ._report import Report as Report
from ._report import Solution as Solution
