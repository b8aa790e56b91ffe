"""What the ablation varies: each row is a problem, a recipe and one change to it."""

import dataclasses
import functools
import itertools
from typing import Any

import diffrax
import optax

import pidax as px

RECIPES = ("paper", "ours", "kd")
ADAM_RATE = 3e-3
SHORT = 1000  # steps, where one change at a time is compared


@dataclasses.dataclass(frozen=True)
class Setting:
    """One training run, but for its seed. Names are those of the tables."""

    problem: str
    recipe: str  # paper, ours or kd
    change: str = ""  # of the recipe, "" for itself
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    scale: int = 1  # the student's width is divided by this
    teacher_weights: bool = False
    steps: int = 8000
    optimiser: str = ""  # "" for the recipe's

    @property
    def name(self):
        return "/".join(
            [self.problem, self.recipe, self.change or "-", f"{self.steps}"]
        )

    @property
    def optimiser_name(self):
        ours = "Muon" if self.problem == "ring" else "Adam"
        return self.optimiser or ("RAdam" if self.recipe == "paper" else ours)

    @property
    def ema(self):
        """The decay of the average, whose memory is short beside the run."""
        return 0.999 if self.problem == "ring" and self.steps > SHORT else 0.99


def objective(setting, problem):
    """The objective of a row, on this problem's flow."""
    flow, choices = problem.flow, dict(setting.choices)
    if setting.recipe == "kd":
        return px.KnowledgeDistillation(flow, classes=problem.classes, **choices)
    if "times" in choices:
        choices["times"] = choices["times"](flow.process)
    if setting.recipe == "paper":
        return px.PID.paper(flow, classes=problem.classes, **choices)
    return px.PID(flow, classes=problem.classes, **choices)


def optimiser(setting):
    """The paper's RAdam, decayed from 1e-3; ours: Muon, or Adam for a residual net.

    A step of Muon multiplies each weight matrix with itself fifteen times, which a
    batch of 1024 hides and one of 256 does not.
    """
    name = setting.optimiser_name
    if name == "Muon":
        rate = px.warmup_cosine(1e-2, setting.steps)
        return optax.contrib.muon(rate, adam_b2=0.99)
    if name == "Adam":
        return optax.adam(px.warmup_cosine(ADAM_RATE, setting.steps), b2=0.99)
    return optax.radam(optax.cosine_decay_schedule(1e-3, setting.steps))


def karras(n):
    return {"times": lambda process: px.karras(n, process)}


def angles(n):
    return {"times": lambda process: px.uniform_angle(n, process)}


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
CHANGES = {
    **{name: {"derivative": d} for name, d in DERIVATIVES.items()},
    **{f"N = {n}": karras(n) for n in (18, 35, 80, 250, 1000)},
    "even angles, N = 35": angles(35),
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


def settings(*, quick=False):
    """All rows in the order in which they are worth having."""
    rows = []
    for problem in ("ring", "digits", "mixture", "learned"):
        rows += _heads(problem)
    rows += _changes()
    if not quick:
        return rows
    few = [r for r in rows if r.problem == "ring" and r.change in ("", "N = 18")]
    few = [dataclasses.replace(row, steps=20) for row in few]
    return list({row.name: row for row in few}.values())


def _changes():
    """One change at a time, on the ring.

    All by one optimiser, the best: by the paper's, in so few steps, every change of its
    preset would end in the same error, the optimiser's.
    """
    short = functools.partial(Setting, "ring", steps=SHORT, optimiser="Muon")
    rows = [
        short(recipe, change, choices)
        for change, choices in {"": {}, **CHANGES}.items()
        for recipe in ("paper", "ours")
        if change not in ITSELF[recipe]
    ]
    rows.append(short("kd"))
    rows += [
        short(recipe, words, scale=k)
        for k, words in ((2, "half the width"), (4, "a quarter of the width"))
        for recipe in RECIPES
    ]
    return rows + [
        short(recipe, name, optimiser=name)
        for recipe, name in itertools.product(RECIPES, ("RAdam", "Adam"))
    ]


def _heads(problem):
    """The recipes themselves, and the two changes that the paper warns of."""
    if problem == "ring":
        return [
            Setting(problem, "paper"),
            Setting(problem, "ours", steps=5000),
            Setting(problem, "ours", "N = 18", karras(18), steps=5000),
            Setting(problem, "ours", "N = 250", karras(250), steps=5000),
            Setting(problem, "kd"),
            Setting(problem, "kd", "RAdam", optimiser="RAdam"),
        ]
    own = {"digits", "learned"}  # the teacher is a network, whose weights can be had
    start = problem in own
    steps = 1500
    twice = {"paper": steps, "ours": steps, "kd": 2 * steps}  # its steps cost less
    rows = [
        Setting(problem, r, steps=n, teacher_weights=start) for r, n in twice.items()
    ]
    if problem in own:
        rows += [Setting(problem, r, "random start", steps=n) for r, n in twice.items()]
    central = {"derivative": px.student.Central()}
    rows.append(
        Setting(
            problem,
            "ours",
            "central, angle",
            central,
            steps=steps,
            teacher_weights=start,
        )
    )
    return rows + [
        Setting(
            problem,
            r,
            "no stop-gradient",
            CHANGES["no stop-gradient"],
            steps=steps,
            teacher_weights=start,
        )
        for r in ("paper", "ours")
    ]
