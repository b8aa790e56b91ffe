r"""Flow matching: the velocity is the regression of $\dot x_t$ on $x_t$.

$$ L = E_{t, x_0, \epsilon}\ \frac1n\,
       |\hat v(x_t, t) - (\dot\alpha x_0 + \dot\sigma\epsilon)|^2, $$

whose minimiser is the velocity of the probability-flow ODE. It is denoising with the
velocity's weight, and computed so: the noise, which cancels from the difference, is
then not in it.
"""

from jaxtyping import PyTree

from ..process import AbstractProcess, RectifiedFlow
from ..types import Key, Scalar, typed
from ._base import AbstractStatelessObjective, State, Terms, Update
from ._data import check_data, check_denoiser, check_rate, denoising_loss
from ._denoising import velocity_factor
from ._laws import AbstractTimeLaw, UniformTime


class FlowMatching(AbstractStatelessObjective):
    """Train a denoiser by its velocity: Lipman et al. 2023; Liu et al. 2023.

    A sample of the data is `x0`, or the tuple `(x0, condition)`. The model is any
    denoiser; `Preconditioned(network, RectifiedFlow(), FlowCoefficients())` is a
    flow-matching network in the usual sense, which predicts `eps - x0`. One evaluation
    a sample.

    **Arguments:**

    - `process`: the path from data to noise; by default `RectifiedFlow()`. In any
      other this is the regression of its `dx/dt`.
    - `law`: of the training time; by default `UniformTime()`. `LogitNormal()` attends
      to the middle of the path.
    - `label_dropout`: the probability of training a sample without its condition.

    The reported term `denoising_error` is the mean squared error of the denoiser.
    """

    process: AbstractProcess
    law: AbstractTimeLaw
    label_dropout: float

    @typed
    def __init__(
        self,
        process: AbstractProcess | None = None,
        *,
        law: AbstractTimeLaw | None = None,
        label_dropout: float | int = 0.0,
    ):
        self.process = RectifiedFlow() if process is None else process
        self.law = UniformTime() if law is None else law
        self.label_dropout = float(label_dropout)

    def __check_init__(self):
        check_rate(self.label_dropout)

    def check(self, model: PyTree, data: PyTree) -> None:
        check_denoiser(model, self.process)
        check_data(model, data, self.label_dropout)

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        return denoising_loss(
            model,
            self.process,
            self.law,
            velocity_factor,
            sample,
            self.label_dropout,
            key,
        )
