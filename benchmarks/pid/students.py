"""Students: what is distilled how, and how far it is from the teacher's solution.

Each row is a recipe, or one change to it, on one problem with one seed: error to the
adaptive solution for the same draws, along the way and at the end, sliced Wasserstein
distance to true samples, seconds.
"""

import dataclasses
import functools
import time
from typing import Any

import diffrax
import jax
import numpy as np
import optax

import pidax as px

from .. import bench
from .problems import Images, Vectors

RECIPES = {"paper": "paper's preset", "ours": "ours", "kd": "knowledge distillation"}
LABELS = RECIPES | {"integral": "integral student"}
PACES = {"integral": "kd"}  # it takes as many steps as its yardstick
SEEDS = (0, 1, 2)
SHORT = 1000  # steps, where one change at a time is compared
LOOKS = 16  # evaluations of the average on the way
RATES = {"RAdam": 1e-3, "Adam": 3e-3, "Muon": 1e-2}


@dataclasses.dataclass(frozen=True)
class Grid:
    """Times of the residual: `karras`, or even angles."""

    nodes: int
    kind: str = "karras"

    def times(self, process):
        make = {"karras": px.karras, "even angles": px.uniform_angle}[self.kind]
        return make(self.nodes, process)


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Nodes of an integral student: where the clean sample moves, or `karras`."""

    count: int = 20
    kind: str = "where it moves"
    interpolant: str = "cubic"

    def times(self, problem: Vectors):
        if self.kind == "karras":
            return px.karras(self.count, problem.process)
        draws, classes = 256, problem.classes
        condition = None if classes is None else np.arange(draws) % classes
        return px.where_it_moves(
            problem.flow,
            self.count,
            key=jax.random.key(17),
            draws=draws,
            condition=condition,
        )


KEPT = px.distill.Slope(tolerated=0.0)

# What a recipe is made of; the rest is as pidax comes (a test compares).
CHOICES: dict[str, dict[str, Any]] = {
    "paper": {
        "times": Grid(250),
        "derivative": px.student.Upwind(px.flow.TimeClock()),
    },
    "ours": {
        "times": Grid(35),
        "derivative": px.student.SolverStep(diffrax.Bosh3(), steps=12),
    },
    "integral": {
        "weighting": px.distill.Slope(),
        "reach": 5,
        "distance": px.distill.PseudoHuber(0.01),
    },
    "kd": {},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides a student, beside its problem and its seed."""

    objective: str
    choices: dict[str, Any]
    optimiser: str
    rate: float
    steps: int
    batch_size: int
    ema: float
    from_teacher: bool  # whether it starts with the teacher's weights
    scale: int = 1  # the student's width is divided by this


@dataclasses.dataclass(frozen=True)
class IntegralRun(Run):
    """The same for an integral student."""

    nodes: Nodes = Nodes()


@dataclasses.dataclass(frozen=True)
class LegsRun(IntegralRun):
    """The same for one with several starts."""

    starts: int = 4


@dataclasses.dataclass(frozen=True)
class LowPrecisionRun(IntegralRun):
    """The same for one whose network is computed in another precision."""

    precision: str = "bfloat16"


def objective(run: Run, problem: Vectors):
    choices = dict(run.choices)
    if "times" in choices:
        choices["times"] = choices["times"].times(problem.process)
    make = {"PID": px.PID, "KnowledgeDistillation": px.KnowledgeDistillation}
    return make[run.objective](problem.flow, classes=problem.classes, **choices)


def start(run: Run, problem: Vectors, key):
    if isinstance(run, IntegralRun):
        nodes, times = run.nodes, run.nodes.times(problem)
        options: dict[str, Any] = {"interpolant": nodes.interpolant}
        if isinstance(run, LegsRun):
            options["starts"] = run.starts
        if run.from_teacher:
            return px.IntegralStudent.from_teacher(
                problem.flow.denoiser, problem.process, times, **options
            )
        network = problem.network.make(key, run.scale, nodes.count)
        if isinstance(run, LowPrecisionRun):
            network = px.nn.LowPrecision(network, run.precision)
        return px.IntegralStudent(network, problem.process, times, **options)
    if run.from_teacher:
        return px.Student.from_teacher(problem.flow.denoiser, problem.process)
    return px.Student(problem.network.make(key, run.scale), problem.process)


def optimiser(run: Run):
    """The paper's RAdam, decayed; ours: Muon, or Adam for a residual net.

    A step of Muon multiplies each weight matrix with itself fifteen times, which a
    batch of 1024 hides and one of 256 does not.
    """
    if run.optimiser == "Muon":
        rate = px.warmup_cosine(run.rate, run.steps)
        return optax.contrib.muon(rate, adam_b2=0.99)
    if run.optimiser == "Adam":
        return optax.adam(px.warmup_cosine(run.rate, run.steps), b2=0.99)
    return optax.radam(optax.cosine_decay_schedule(run.rate, run.steps))


def train(problem: Vectors, run: Run, seed: int):
    """A student, with its errors on the way."""
    z, xs = problem.solved
    some = slice(0, 2048)
    label = None if problem.condition is None else problem.condition[some]
    t = problem.grid[-1]
    end = jax.jit(
        lambda m: jax.vmap(lambda z, c: m(z, t, c), in_axes=(0, _axis(problem)))(
            z[some], label
        )
    )
    curve = []

    def look(step, terms, result):
        x = end(result.ema())
        rms = px.metrics.rms_error(x, xs[some, -1], per_component=problem.per_component)
        curve.append([step, float(rms), terms["loss"]])

    first, second = jax.random.split(jax.random.key(seed))
    begin, worked = time.perf_counter(), time.process_time()
    result = px.fit(
        start(run, problem, first),
        objective(run, problem),
        steps=run.steps,
        batch_size=run.batch_size,
        optimiser=optimiser(run),
        ema=(run.ema,),
        key=second,
        log_every=max(run.steps // LOOKS, 1),
        callback=look,
        progress=False,
    )
    seconds = time.perf_counter() - begin
    worked = time.process_time() - worked
    speed = float(np.median(result.history["steps_per_second"]))
    spent = px.inference.Cost.of_training(result, seconds=seconds).training
    cost = {"seconds": seconds, "cpu_seconds": worked, "steps_per_second": speed}
    cost["pair_evaluations"] = spent.pair_evaluations
    return result.ema(), {"cost": cost, "curve": curve}


def errors(problem: Vectors, model):
    """Of a student at the times where the truth is kept: a dict of lists."""
    z, xs = problem.solved
    batched = jax.vmap(
        lambda z, c, t: model(z, t, c), in_axes=(0, _axis(problem), None)
    )
    run = jax.jit(batched)
    states = [run(z, problem.condition, t) for t in problem.grid[1:]]
    rows = [
        px.metrics.error_summary(x, xs[:, i], per_component=problem.per_component)
        for i, x in enumerate(states, 1)
    ]
    found: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    if problem.law is not None:
        found |= elsewhere(problem, states[-1])
    return found, np.asarray(states[-1])


def elsewhere(problem: Vectors, samples):
    """How many end nearer to another mode, and the RMS error of those that do not.

    The first is the share of errors above half the least distance of two modes.
    """
    assert problem.law is not None
    size = int(np.prod(problem.network.shape))
    means = np.asarray(problem.law().means).reshape(-1, size)
    apart = np.linalg.norm(means[:, None] - means, axis=-1)
    limit = apart[apart > 0].min() / 2
    if problem.per_component:
        limit /= np.sqrt(size)
    wrong = np.asarray(
        px.metrics.sample_errors(
            samples,
            problem.solved[1][: len(samples), -1],
            per_component=problem.per_component,
        )
    )
    others = wrong[wrong <= limit]
    return {
        "elsewhere": float((wrong > limit).mean()),
        "rms_of_others": float(np.sqrt(np.mean(others**2))) if others.size else None,
    }


def _axis(problem):
    return None if problem.classes is None else 0


def distances(problem: Vectors, samples):
    """Sliced W2 to true samples: of samples, of the teacher, of other true samples.

    All sets have one size; of samples there are more, and the mean is taken.
    """
    truth, more = problem.truth
    size = min(len(truth), len(samples))
    truth, more = truth[:size], more[:size]

    def far(x):
        sets = [x[at : at + size] for at in range(0, len(x) - size + 1, size)]
        key = jax.random.key(0)
        some = [px.metrics.sliced_wasserstein(s, truth, key=key) for s in sets]
        return float(np.mean(some))

    teacher = np.asarray(problem.solved[1][:, -1])
    found = {"student": far(samples), "teacher": far(teacher), "floor": far(more)}
    return {**found, "size": size}


# --- the methods ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A recipe, or one change to it; a method of the suite."""

    recipe: str  # paper, ours, integral or kd
    change: str = ""  # what is changed, in words
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    scale: int = 1
    random_start: bool = False  # though there are weights of a teacher to start from
    steps: int | None = None  # None for the problem's
    paced_as: str = ""  # the recipe that has as many steps; "" for its own
    batch_size: int | None = None  # None for the problem's
    optimiser: str = ""  # "" for the recipe's
    nodes: Nodes | None = None  # None for the recipe's
    starts: int = 1  # of an integral student
    precision: str = ""  # of an integral student's network; "" for float32

    def configuration_on(self, problem: Vectors) -> Run:
        """What is run on this problem."""
        ours = "RAdam" if self.recipe == "paper" else problem.optimiser
        # Muon is for matrices, and an image network has few.
        own = "" if isinstance(problem, Images) else self.optimiser
        name, short = own or ours, self.steps is not None
        recipe = self.paced_as or PACES.get(self.recipe, self.recipe)
        steps = problem.steps[recipe] if self.steps is None else self.steps
        run = Run(
            objective="KnowledgeDistillation" if self.recipe == "kd" else "PID",
            choices=CHOICES[self.recipe] | self.choices,
            optimiser=name,
            rate=RATES[name],
            steps=steps,
            batch_size=self.batch_size or problem.batch_size,
            # An average whose memory is short beside the run.
            ema=min(problem.ema, 0.99) if short else problem.ema,
            from_teacher=problem.taught is not None and not self.random_start,
            scale=self.scale,
        )
        if self.recipe != "integral":
            return run
        nodes = self.nodes or Nodes(getattr(problem, "nodes", Nodes().count))
        if self.precision:
            return LowPrecisionRun(**vars(run), nodes=nodes, precision=self.precision)
        if self.starts == 1:
            return IntegralRun(**vars(run), nodes=nodes)
        return LegsRun(**vars(run), nodes=nodes, starts=self.starts)

    def trained(self, problem: Vectors, seed: int):
        """The averaged student, and the note about its training."""
        run = self.configuration_on(problem)
        return bench.kept("student", train, problem, run, seed)

    def __call__(self, problem: Vectors, seed, quick) -> bench.Outcome:
        """The row."""
        try:
            student, note = self.trained(problem, seed)
        except px.NonFiniteError as error:
            return bench.Outcome({"diverged": str(error)[:80]})
        found, samples = errors(problem, student)
        steps = [k for k in range(2, self.starts + 1) if self.starts % k == 0]
        for k in steps:
            more, _ = errors(problem, student.in_steps(k))
            found[f"in_{k}_steps"] = more
        found["sliced_wasserstein"] = distances(problem, samples)
        found["times"] = np.asarray(problem.grid[1:], float).tolist()
        if not quick:
            jax.clear_caches()
        return bench.Outcome({**found, "curve": note["curve"]}, note["cost"])


DERIVATIVES = {
    "upwind, time": px.student.Upwind(px.flow.TimeClock()),
    "upwind, angle": px.student.Upwind(),
    "central, time": px.student.Central(clock=px.flow.TimeClock()),
    "central, angle": px.student.Central(),
    "central at nodes, time": px.student.Central("nodes", px.flow.TimeClock()),
    "central at nodes, angle": px.student.Central("nodes"),
    "Heun step, time": px.student.SolverStep(diffrax.Heun(), px.flow.TimeClock()),
    "Heun step, angle": px.student.SolverStep(diffrax.Heun()),
    "12 long steps of Bosh3": px.student.SolverStep(diffrax.Bosh3(), steps=12),
    "9 long steps of Dopri5": px.student.SolverStep(diffrax.Dopri5(), steps=9),
    "coupled, angle": px.student.CoupledAutomaticNumerical(),
    "exact": px.student.Autodiff(),
}
CHANGES: dict[str, dict[str, Any]] = {
    **{name: {"derivative": d} for name, d in DERIVATIVES.items()},
    **{f"N = {n}": {"times": Grid(n)} for n in (18, 35, 80, 250, 1000)},
    "even angles, N = 35": {"times": Grid(35, "even angles")},
    "no stop-gradient": {"stop_gradient": False},
    "velocity form (eq. 8)": {"form": "velocity"},
    "pseudo-Huber": {"distance": px.distill.PseudoHuber()},
    "L1": {"distance": px.distill.L1()},
    "drawn by loss": {"sampling": px.distill.ByLoss()},
    "drawn towards data": {"sampling": px.distill.PowerLaw()},
    "opened from T": {"sampling": px.distill.Curriculum()},
    "causal weights": {"weighting": px.distill.Causal()},
    "slow target": {"slow": 0.98},
}
ITSELF = {  # what a recipe has already
    "paper": ("upwind, time", "N = 250"),
    "ours": ("12 long steps of Bosh3", "N = 35"),
}
SIZES = {"half the width": 2, "a quarter of the width": 4}
OPTIMISERS = ("RAdam", "Adam")


def register(how: Distilled, *, prefix="", **options):
    """Named after the recipe and the change, in the words of the tables."""
    name = f"{prefix}{how.recipe}{', ' * bool(how.change)}{how.change}"
    label = LABELS[how.recipe] + (f", {how.change}" if how.change else "")
    bench.method("pid", name, label=label, **options)(how)


def whole():
    """The recipes themselves, and the changes that the paper warns of."""
    for recipe in RECIPES:
        register(Distilled(recipe), seeds=SEEDS, quick=recipe == "kd")
    one = functools.partial(register, quick=False)
    for n in (18, 250):
        one(Distilled("ours", f"N = {n}", CHANGES[f"N = {n}"]), on=("ring",))
    one(Distilled("kd", "RAdam", optimiser="RAdam"), on=("ring",), seeds=SEEDS)
    for recipe in RECIPES:
        one(
            Distilled(recipe, "random start", random_start=True),
            on=("digits", "learned"),
        )
    others = ("digits", "mixture", "learned")
    central = {"derivative": DERIVATIVES["central, angle"]}
    one(Distilled("ours", "central, angle", central), on=others)
    for recipe in ("paper", "ours"):
        change = "no stop-gradient"
        one(Distilled(recipe, change, CHANGES[change]), on=others)


def integral():
    """The integral student, what its parts are worth, and its yardstick.

    The yardstick is regression on solved samples that are each seen once: pairs that
    are seen many times are learned by heart. Both have the same network but for its
    last layer, the same batch, optimiser and number of steps.
    """
    one = functools.partial(register, quick=False)
    integral = functools.partial(Distilled, "integral", optimiser="Muon")
    one(integral(), seeds=SEEDS)
    one(integral("weights kept", {"weighting": KEPT}), seeds=SEEDS)
    fresh = {"pairs": 16_384, "refresh_every": 64, "times": Grid(2)}
    one(Distilled("kd", "fresh pairs", fresh, optimiser="Muon"), seeds=SEEDS)
    shares: dict[str, dict[str, Any]] = {
        "4 starts": {},
        "4 starts, semigroup": {"semigroup": 0.3},
    }
    for change, choices in shares.items():
        kept = choices | {"weighting": KEPT}
        one(integral(change, kept, starts=4), on=("ring", "mixture"))
    along = {"weighting": px.distill.SlopeAlongDraws()}
    one(integral("weights per draw and in common", along))
    plain = {"weighting": px.distill.Unweighted()}
    one(integral("without weights", plain), seeds=SEEDS)
    few = {"pairs": 4096, "times": Grid(2)}
    one(Distilled("kd", "4,096 pairs", few), on=("patches",))
    robust = fresh | {"distance": px.distill.PseudoHuber(0.01)}
    one(Distilled("kd", "fresh pairs, pseudo-Huber", robust, optimiser="Muon"))


def parts():
    """The integral student, one part at a time, in fewer steps.

    Its weights are kept to the end, unless it says that they ease.
    """
    half = functools.partial(Distilled, "integral", optimiser="Muon", paced_as="ours")
    square = {"distance": px.distill.L2()}
    slope = px.distill.Slope(strength=0.5, tolerated=0.0)
    changes: dict[str, dict[str, Any]] = {
        "": {},
        "squared distance": {"choices": square},
        "wide distance": {"choices": {"distance": px.distill.PseudoHuber(0.1)}},
        "half weights": {"choices": {"weighting": slope}},
        "half weights, squared distance": {"choices": square | {"weighting": slope}},
        "own states, squared distance": {"choices": square | {"reach": 1}},
        "without weights": {"choices": {"weighting": px.distill.Unweighted()}},
        "without weights, squared distance": {
            "choices": square | {"weighting": px.distill.Unweighted()}
        },
        "whole paths": {"choices": {"reach": Nodes().count}},
        "linear": {"nodes": Nodes(interpolant="linear")},
        "karras nodes": {"nodes": Nodes(kind="karras")},
        "5 nodes asked": {"choices": {"draw": 5}},
        "weights per draw": {
            "choices": {"weighting": px.distill.SlopeAlongDraws(shared=0.0)}
        },
        "weights per draw and in common": {
            "choices": {"weighting": px.distill.SlopeAlongDraws()}
        },
        "weights of 5% at least": {
            "choices": {"weighting": px.distill.Slope(least=0.05, tolerated=0.0)}
        },
        "draws near borders": {"choices": {"borders": px.distill.Borders()}},
        "bfloat16": {"precision": "bfloat16"},
        "weights that ease": {"choices": {"weighting": px.distill.Slope()}},
    }
    for change, options in changes.items():
        options["choices"] = {"weighting": KEPT} | options.get("choices", {})
        register(half(change, **options), prefix="parts: ", quick=False, group="parts")


def one_change():
    """One change at a time, on the ring.

    All by one optimiser, the best: by the paper's, in so few steps, every change of its
    preset would end in the same error, the optimiser's.
    """
    short = functools.partial(Distilled, steps=SHORT, optimiser="Muon")
    one = functools.partial(
        register, prefix="short: ", on=("ring",), quick=False, group="short"
    )
    for change, choices in {"": {}, **CHANGES}.items():
        for recipe in ("paper", "ours"):
            if change not in ITSELF[recipe]:
                one(short(recipe, change, choices))
    one(short("kd"))
    for change, k in SIZES.items():
        for recipe in RECIPES:
            one(short(recipe, change, scale=k))
    for recipe in RECIPES:
        for name in OPTIMISERS:
            one(Distilled(recipe, name, optimiser=name, steps=SHORT))


whole()
integral()
parts()
one_change()
