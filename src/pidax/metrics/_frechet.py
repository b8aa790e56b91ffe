r"""Distances of images by the features of a network: Frechet's, and a score.

The Frechet distance of two Gaussians is their optimal transport distance, squared,

$$ d^2 = |\mu - \nu|^2 + \operatorname{tr}\bigl(A + B - 2 (A^{1/2} B A^{1/2})^{1/2}
   \bigr) $$

(Dowson & Landau 1982). On the features of the Inception network it is called FID
(Heusel et al. 2017). pidax has no such network: pass the features of a network, or of
any other function of an image. Statistics are computed in float64, in NumPy.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .._checks import require
from ..types import typed
from ._sets import SamplesLike


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and covariance of features, and their `count` (None if it is not known)."""

    mean: Float[np.ndarray, " feature"]
    covariance: Float[np.ndarray, "feature feature"]
    count: int | None = None

    def __post_init__(self):
        size = len(self.mean)
        if self.covariance.shape != (size, size):
            raise ValueError(
                f"a mean of {size} features has a covariance of the shape "
                f"{(size, size)}, got {self.covariance.shape}. Take both of the same "
                "features: FeatureStatistics.of(features)."
            )

    @staticmethod
    @typed
    def of(features: SamplesLike) -> "FeatureStatistics":
        """The statistics of features, one row for each image, with unbiased
        covariance.
        """
        rows = np.asarray(features, np.float64).reshape(len(features), -1)
        require(
            None,
            len(rows) >= 2 and bool(np.isfinite(rows).all()),
            "features must be finite, of at least two images, got "
            f"{len(rows)} rows, {int((~np.isfinite(rows)).sum())} numbers in them not "
            "finite. Leave out the images that made them.",
        )
        covariance = np.atleast_2d(np.cov(rows, rowvar=False))
        return FeatureStatistics(rows.mean(axis=0), covariance, len(rows))

    @staticmethod
    def load(path: str | Path) -> "FeatureStatistics":
        """From an `.npz` with `mu` and `sigma`: EDM's reference statistics."""
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("mu", "sigma") if name not in file]
            if missing:
                raise ValueError(
                    f"{path} must hold the arrays 'mu' and 'sigma', got {file.files}. "
                    "Use reference statistics, not images or features."
                )
            return FeatureStatistics(
                file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
            )

    def save(self, path: str | Path) -> None:
        """To an `.npz` with `mu` and `sigma`."""
        with open(path, "wb") as file:
            np.savez(file, mu=self.mean, sigma=self.covariance)


def frechet_distance(samples: FeatureStatistics, reference: FeatureStatistics) -> float:
    r"""The squared distance $d^2$ of two Gaussians with these statistics.

    It is biased: two finite sets of the same distribution are at a positive distance,
    which falls with their size. Compare only numbers for equally many images.
    """
    if samples.mean.shape != reference.mean.shape:
        raise ValueError(
            f"both must be statistics of the same features, got {len(samples.mean)} "
            f"and {len(reference.mean)} of them. Use one network for both."
        )
    root = _root(samples.covariance)
    # A product of two covariances has the eigenvalues of this symmetric matrix.
    cross = np.linalg.eigvalsh(root @ reference.covariance @ root)
    overlap = np.sqrt(np.maximum(cross, 0)).sum()
    shift = samples.mean - reference.mean
    spread = np.trace(samples.covariance) + np.trace(reference.covariance)
    return float(shift @ shift + spread - 2 * overlap)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance, whose rank may be less than its size."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@typed
def inception_score(
    probabilities: Float[np.ndarray, "image label"], *, splits: int = 10
) -> tuple[float, float]:
    r"""$\exp E_x\, \mathrm{KL}(p(y|x)\,\|\,p(y))$: mean and deviation over `splits`.

    Between 1 (the classifier gives the same answer for every image) and the number of
    labels (certain answers, all equally frequent): Salimans et al. 2016. Images are
    split in their order.
    """
    p = np.asarray(probabilities, np.float64)
    sums = p.sum(axis=1)
    fits = bool((p >= 0).all() and np.allclose(sums, 1, atol=1e-3))
    require(
        None,
        fits and 1 <= splits <= len(p),
        "expected a row of probabilities for each image, and no more splits than "
        f"images, got rows that sum to {sums.min():.4g} to {sums.max():.4g}, "
        f"{len(p)} images and splits={splits}. Take a softmax of logits first.",
    )
    scores = []
    for part in np.array_split(p, splits):
        mean = part.mean(axis=0)
        ratio = np.where(part > 0, part, 1) / np.where(mean > 0, mean, 1)
        divergence = (part * np.log(ratio)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))
