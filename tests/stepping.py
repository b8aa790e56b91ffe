"""Solvers stepped in one small compiled loop, and samplers written out in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px


def two_points(x, sigma, alpha):
    """The denoiser of the points -1 and 1, in NumPy or in JAX."""
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.tanh(alpha * x / sigma**2)


def points_flow(process, clock=None):
    denoise = px.from_function(two_points, shape=(1,))
    return px.ProbabilityFlow(denoise, process, clock=clock)


def walk(solver, flow, taus, u, count=None, exact=None, early=0):
    """The states after `count` steps along `taus`; the first ones start from `exact`.

    Then the history is exact, too.
    """
    term = flow.term()
    count = len(taus) - 1 if count is None else count

    def body(i, carry):
        u, state = carry
        if exact is not None:
            u = jnp.where(i <= early, exact[i], u)
        u1, _, _, state, _ = solver.step(
            term, taus[i], taus[i + 1], u, None, state, False
        )
        if exact is not None and getattr(state, "u", None) is not None:
            start = jnp.where(i <= early, exact[i], state.u)
            state = eqx.tree_at(lambda s: s.u, state, start)
        return u1, state

    state = solver.init(term, taus[0], taus[1], u, None)
    return jax.lax.fori_loop(0, count, body, (u, state))[0]


def solved(solver, flow, z, times, **options):
    """The same from process times and states, and back."""
    taus = flow.clock.reading(flow.process, times)
    u = walk(solver, flow, taus, flow.magnification(times[0]) * z, **options)
    return u / flow.magnification(times[-1])


class Levels:
    """sigma, alpha and lambda at the times, in NumPy."""

    def __init__(self, process, times):
        self.sigma, self.alpha = map(np.asarray, process.level(times))
        self.log_snr = np.log(self.alpha / self.sigma)
        self.ratio = self.sigma / self.alpha
        self.steps = len(self.sigma) - 1


def data_multistep(levels, x, denoise, correction):
    """x1 = s1/s0 x + M D + M correction(lambdas, h, Ds), with M = a1 (1 - e^-h)."""
    kept = []
    for i in range(levels.steps):
        s0, s1 = levels.sigma[i : i + 2]
        kept.append(denoise(x, s0, levels.alpha[i]))
        h = levels.log_snr[i + 1] - levels.log_snr[i]
        whole = -levels.alpha[i + 1] * np.expm1(-h)
        more = correction(levels.log_snr[: i + 1][::-1], h, kept[::-1])
        x = s1 / s0 * x + whole * (kept[-1] + more)
    return x


def published_2m(log_snr, h, kept):
    """DPM-Solver++ 2M: half the slope."""
    if len(kept) < 2:
        return 0.0
    r0 = (log_snr[0] - log_snr[1]) / h
    return (kept[0] - kept[1]) / (2 * r0)


def published_3m(log_snr, h, kept, factor=1.0):
    """DPM-Solver++ 3M; `factor` 2 is the integral of the parabola."""
    if len(kept) < 3:
        return published_2m(log_snr, h, kept)
    r0, r1 = (log_snr[0] - log_snr[1]) / h, (log_snr[1] - log_snr[2]) / h
    slope0, slope1 = (kept[0] - kept[1]) / r0, (kept[1] - kept[2]) / r1
    d1 = slope0 + r0 / (r0 + r1) * (slope0 - slope1)
    d2 = (slope0 - slope1) / (r0 + r1)
    phi_1 = -np.expm1(-h)
    phi_2, phi_3 = (h - phi_1) / h, 0.5 - (h - phi_1) / h**2
    return (phi_2 * d1 + factor * phi_3 * d2) / phi_1


def unipc(levels, x, denoise, order, b_of_h, halves=True):
    """UniPC of Zhao et al. 2023, with their B(h): predictor, corrector, one call."""
    kept, lambdas = [denoise(x, levels.sigma[0], levels.alpha[0])], [levels.log_snr[0]]
    for i in range(levels.steps):
        s0, s1, a1 = levels.sigma[i], levels.sigma[i + 1], levels.alpha[i + 1]
        h = levels.log_snr[i + 1] - levels.log_snr[i]
        p = min(order, i + 1, levels.steps - i)
        r = np.array([(lambdas[-1 - k] - lambdas[-1]) / h for k in range(1, p)] + [1.0])
        d = [(kept[-1 - k] - kept[-1]) / r[k - 1] for k in range(1, p)]
        # b_k = k! phi_(k+1)(-h) for D: phi_2 = (e^-h - 1)/-h - 1 over -h, ...
        b, phi, factorial = [], np.expm1(-h) / -h - 1, 1.0
        for k in range(1, p + 1):
            factorial *= k
            b.append(phi * factorial / b_of_h(-h))
            phi = phi / -h - 1 / (factorial * (k + 1))
        rows = np.array([r ** (k - 1) for k in range(1, p + 1)])
        base = s1 / s0 * x - a1 * np.expm1(-h) * kept[-1]
        scale = -a1 * b_of_h(-h)
        if p == 2 and halves:
            predicted = [0.5]
        else:
            predicted = np.linalg.solve(rows[:-1, :-1], b[:-1]) if p > 1 else []
        guess = base + scale * sum(w * e for w, e in zip(predicted, d, strict=True))
        if i == levels.steps - 1:
            return guess
        new = denoise(guess, s1, a1)
        weights = [0.5] if p == 1 and halves else np.linalg.solve(rows, b)
        both = [*d, new - kept[-1]]
        x = base + scale * sum(w * e for w, e in zip(weights, both, strict=True))
        kept.append(new)
        lambdas.append(levels.log_snr[i + 1])
    return None


def pndm(levels, x, denoise, momentum=1.0):
    """iPNDM, and with less momentum GHVB of order four, in x / alpha."""
    b, x, averages = momentum, x / levels.alpha[0], []
    table = [
        np.array([b]),
        np.array([2 + b, -(2 - b)]) / 2,
        np.array([18 + 5 * b, -24 + 8 * b, 6 - b]) / 12,
        np.array([46 + 9 * b, -78 + 19 * b, 42 - 5 * b, -10 + b]) / 24,
    ]
    for i in range(levels.steps):
        sigma, alpha = levels.sigma[i], levels.alpha[i]
        eps = (alpha * x - alpha * denoise(alpha * x, sigma, alpha)) / sigma
        averages.append((1 - b) * averages[-1] + b * eps if averages else eps)
        weights = table[min(i, 3)] / b
        slope = sum(w * v for w, v in zip(weights, averages[::-1], strict=False))
        x = x + (levels.ratio[i + 1] - levels.ratio[i]) * slope
    return x * levels.alpha[-1]
