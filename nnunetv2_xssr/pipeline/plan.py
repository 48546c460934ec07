"""What a call of nnUNetv2_xssr_select will do: decided and checked before any long work."""

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from nnunetv2_xssr.annotation.raters import check_raters, deal
from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.images.case_table import check_names
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.slices import volume_of
from nnunetv2_xssr.records.folds import study_folds
from nnunetv2_xssr.records.selection import Pick
from nnunetv2_xssr.records.split import Split
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.selection import Constraints, check_options, parse_budget, parse_cost_budget, parse_minutes

AUTO = "auto"  # the budget that stands for the knee of the coverage
MOST_AUTOMATIC = 100  # cases among which the knee is looked for
# The first of their picks are not what they would pick for a smaller budget.
_NOT_RANKING = ("kmeans", "typiclust", "probcover")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user chose.

    Attributes
    ----------
    budget : str
        As written: ``22`` or ``5%``, of cases or, where they have costs, of cost; ``60min`` or ``2h``, a time; ``auto``
        for the knee.
    strategy : str
    alpha : float or None
        None calibrates it.
    density_weight : float
    seed : int
    labelled : list of str or None
        Cases that are labelled already; None stands for those with a label file, unless all have one.
    excluded : sequence of str
        Treated as if not in the pool.
    alpha_criterion : str
    domain_quota : list of str or None
        As written: ``proportional``, ``equal``, or ``NAME=NUMBER`` for every domain.
    max_per_group : int or None
    min_distance : float
    unit : {"case", "slice"}
        What is chosen: whole cases, or slices of volumes.
    max_per_volume : int or None
        Of slices; 1 by default.
    minutes_per_case : float or None
        What annotating a case takes, or a slice where slices are chosen, for a budget that is a time; None takes the
        mean of what annotators have told: see `nnunetv2_xssr.pipeline.minutes`.
    raters : list of str or None
        Among whom the worklist is dealt out.
    overlap : str or None
        How many of the picked cases all raters draw, or what percentage of them; none by default.
    control : int
        How many of the cases are drawn at random, to compare the others with.
    """

    budget: str
    strategy: str = "xssr"
    alpha: float | None = None
    density_weight: float = 0.5
    seed: int = 0
    labelled: list[str] | None = None
    excluded: Sequence[str] = ()
    alpha_criterion: str = "mean_distance"
    domain_quota: list[str] | None = None
    max_per_group: int | None = None
    min_distance: float = 0.0
    unit: str = "case"
    max_per_volume: int | None = None
    minutes_per_case: float | None = None
    raters: list[str] | None = None
    overlap: str | None = None
    control: int = 0

    def __post_init__(self):
        check_options(
            strategy=self.strategy,
            alpha=self.alpha,
            density_weight=self.density_weight,
            alpha_criterion=self.alpha_criterion,
            seed=self.seed,
        )
        if self.budget == AUTO and (self.strategy in _NOT_RANKING or self.domain_quota is not None):
            what = "--domain_quota" if self.strategy not in _NOT_RANKING else f"--strategy {self.strategy}"
            raise UserError(f"-b {AUTO} needs picks that are a ranking, which {what} does not give; give -b a number")
        if self.unit not in ("case", "slice"):
            raise one_of("--unit", ("case", "slice"), self.unit)
        if self.max_per_volume is not None and self.unit == "case":
            raise UserError("--max_per_volume counts slices; give --unit slice with it")
        if self.max_per_volume is not None and self.max_per_volume < 1:
            raise UserError(f"--max_per_volume must be 1 or more; got {self.max_per_volume}")
        if self.minutes_per_case is not None:
            if parse_minutes(self.budget) is None:
                raise UserError(f"--minutes_per_case needs a time such as -b 60min or 2h; got -b {self.budget[:50]!r}")
            if not 0 < self.minutes_per_case < np.inf:
                raise UserError(f"--minutes_per_case must be a number above 0; got {self.minutes_per_case:g}")
        if self.control < 0:
            raise UserError(f"--control must be 0 or more; got {self.control}")
        for does_not_fit, what in ((self.unit == "slice", "--unit slice"), (self.budget == AUTO, f"-b {AUTO}")):
            if self.control and does_not_fit:
                raise UserError(f"--control does not go with {what}; leave it out")
        if self.raters is not None:
            check_raters(self.raters)
            self._shared(int(self.budget) if re.fullmatch("[0-9]{1,15}", self.budget) else 10**15)
        elif self.overlap is not None:
            raise UserError("--overlap says what several raters draw; name them with --raters")

    def dealt(self, picks: Sequence[Pick]) -> dict[str, list[str]]:
        """Who draws what of these picks; nobody in particular without raters."""
        if self.raters is None:
            return {}
        shared = self._shared(10**15, of=len({pick.case for pick in picks}))
        return deal(picks, raters=self.raters, shared=shared, seed=self.seed)

    def _shared(self, most: int, *, of: int = 10**15) -> int:
        """How many of so many cases all raters draw; a `UserError` if that is no number up to ``most``, nor a part."""
        try:
            return 0 if self.overlap is None else parse_budget(self.overlap, pool_size=of, available=most)
        except UserError:
            raise UserError(
                f"--overlap must be a number of the picked cases, from 1, or a percentage of them such as 10%; got "
                f"{(self.overlap or '')[:50]!r}"
            ) from None

    def check(self, *, scheduler: bool, prelabel: bool) -> None:
        """Raise `UserError` where options of others do not go with these."""
        if self.control and scheduler:
            raise UserError("--control does not go with --scheduler; leave it out")
        if self.raters and prelabel:
            raise UserError("--prelabel hides how far raters agree, who would correct one drawing; leave --raters out")

    def check_control(self, plan: "SelectionPlan") -> None:
        """Raise `UserError` unless so many cases can be drawn at random, by an annotator who is not told which."""
        if self.control and plan.mode == "study":
            raise UserError("--control does not go with a study, where nobody annotates; leave it out")
        budget, costs = plan.folds[0].budget, plan.folds[0].constraints.cost is not None
        if self.control and budget is not None and not costs and self.control >= budget:
            raise UserError(f"--control must be from 0 to fewer than the {budget:g} of the budget; got {self.control}")

    def constraints(self, cases: Sequence[Case]) -> Constraints:
        """What the picks among these cases must respect."""
        for option, name in (("domain_quota", "domain"), ("max_per_group", "group")):
            if getattr(self, option) is not None and all(getattr(case, name) is None for case in cases):
                raise UserError(
                    f"--{option} needs to know the {name} of the cases; give --cases a CSV with a column {name}"
                )
        return Constraints(
            cost=np.array([case.cost for case in cases]) if cases[0].cost is not None else None,
            domain=[case.domain for case in cases],
            domain_quota=_quota(self.domain_quota),
            group=[case.group for case in cases],
            max_per_group=self.max_per_group,
            volume=[volume_of(case.identifier) for case in cases] if self.unit == "slice" else None,
            max_per_volume=(self.max_per_volume or 1) if self.unit == "slice" else None,
            min_distance=self.min_distance,
        )

    def settings(self) -> dict:
        """What the user chose, for the record, which tells of a control only where there is one."""
        labelled = None if self.labelled is None else sorted(self.labelled)
        chosen = {**asdict(self), "excluded": list(self.excluded), "labelled": labelled}
        return chosen if self.control else {name: value for name, value in chosen.items() if name != "control"}


def _quota(words: list[str] | None) -> str | dict[str, float] | None:
    """One word such as ``equal``, or ``NAME=NUMBER`` for every domain."""
    if words is None or (len(words) == 1 and "=" not in words[0]):
        return words[0] if words else None
    try:
        pairs = [word.rsplit("=", 1) for word in words]
        quota = {name: float(number) for name, number in pairs}
        if len(quota) < len(words):
            raise ValueError
        return quota
    except ValueError:
        raise UserError(
            f"--domain_quota must be proportional, equal, or NAME=NUMBER once for every domain; got {' '.join(words)!r}"
        ) from None


@dataclass(frozen=True)
class FoldPlan:
    """One selection to make.

    Attributes
    ----------
    pool : list of str
        The cases it is about.
    labelled : list of str
        Those of them that count as picked from the start.
    budget : int, or float where the cases have costs; None for the knee of the coverage
    constraints : Constraints
    validation : list of str or None
        The fold's validation cases in a study; None where the selected cases are to be cross-validated.
    """

    pool: list[str]
    labelled: list[str]
    budget: float | None
    constraints: Constraints
    validation: list[str] | None

    def most(self) -> int:
        """How many cases the knee is looked for among."""
        return min(MOST_AUTOMATIC, len(self.pool) - len(self.labelled))


@dataclass(frozen=True)
class SelectionPlan:
    """All selections to make: one per fold in a study, where every case has a label, else one.

    With slices the pool and the labelled of its one fold are slices (`nnunetv2_xssr.images.slices`).
    """

    mode: str
    folds: list[FoldPlan]
    unit: str = "case"

    def study_split(self, picks: list[list[str]]) -> Split:
        """The split file of a study for the picks of every fold."""
        pairs = zip(self.folds, picks, strict=True)
        return [{"train": sorted(picked), "val": fold.validation or []} for fold, picked in pairs]


def make_plan(target: ImagePool, choice: Choice, left_out: Collection[str] = ()) -> SelectionPlan:
    """Decide between study and annotation, and check every case name and budget.

    A study, where every case has a label, is selected within each fold's training cases and keeps the fold's validation
    cases. Otherwise the whole pool is the place to pick from.

    Parameters
    ----------
    target : ImagePool
    choice : Choice
    left_out : collection of str
        Cases that cannot be chosen, such as broken ones: treated as excluded.

    Raises
    ------
    UserError
        If a name or a budget does not fit the pool.
    """
    check_names("--exclude", choice.excluded, target)
    check_names("--labelled", choice.labelled or (), target)
    gone = {*choice.excluded, *left_out}
    usable = [case for case in target.cases if case.identifier not in gone]
    if not usable:
        raise UserError(f"--exclude names all {len(target)} cases of {target.name}; nothing is left to pick from")
    is_study = choice.labelled is None and all(case.labelled for case in target.cases)
    if is_study:
        if choice.raters is not None:
            raise UserError(f"--raters deals out what is to be annotated, but every case of {target.name} has a label")
        groups = {case.identifier: case.group for case in usable if case.group is not None}
        return SelectionPlan("study", _study(target, gone, groups, choice))
    labelled = {case.identifier for case in usable if case.labelled} if choice.labelled is None else choice.labelled
    labelled = [case.identifier for case in usable if case.identifier in set(labelled)]
    if len(labelled) == len(usable):
        raise UserError(f"all {len(labelled)} cases of {target.name} are labelled; nothing is left to pick")
    return SelectionPlan("annotation", [_fold_plan(usable, labelled, choice, None)])


def describe_plan(plan: SelectionPlan, name: str, *, has_source: bool) -> str:
    """One or two sentences: what will be picked from what."""
    first = plan.folds[0]
    budget = f"{first.budget} of {len(first.pool)} {{}}{plan.unit}s"
    if first.budget is None:
        asked = f"as the knee of the coverage tells, at most {first.most()},"
        budget = f"as many of {len(first.pool)} {{}}{plan.unit}s {asked}"
    if first.constraints.cost is not None:
        budget = f"{{}}cases with a cost of {first.budget:g}, of {sum(first.constraints.cost):g} in all,"
    if plan.mode == "study":
        where = "in the only fold" if len(plan.folds) == 1 else f"in each of {len(plan.folds)} folds"
        text = (
            f"{name}: every case has a label, so this is a study: {budget.format('training ')} are picked {where}, "
            "whose validation cases stay as they are."
        )
    else:
        text = f"{name}: {budget.format('')} are picked for annotation"
        text += f"; {len(first.labelled)} have a label already and cost nothing." if first.labelled else "."
    if not has_source:
        text += "\nNo source (-s): an encoder that learns does so from the pool itself; novelty is off and alpha is 0."
    return text


def _fold_plan(cases: list[Case], labelled: list[str], choice: Choice, validation: list[str] | None) -> FoldPlan:
    constraints = choice.constraints(cases)
    taken = [i for i, case in enumerate(cases) if case.identifier in set(labelled)]
    budget: float
    plan = FoldPlan([case.identifier for case in cases], labelled, None, constraints, validation)
    if choice.budget == AUTO:
        if constraints.cost is not None:
            raise UserError(f"-b {AUTO} cannot choose a budget where cases have costs; give the total cost to -b")
        budget = plan.most()
    elif constraints.cost is None:
        budget = parse_budget(
            choice.budget,
            pool_size=len(cases),
            available=len(cases) - len(labelled),
            minutes_per_case=choice.minutes_per_case,
        )
    else:
        total = sum(constraints.cost)
        budget = parse_cost_budget(
            choice.budget, total=total, available=total - sum(constraints.cost[i] for i in taken)
        )
    constraints.check(len(cases))
    constraints.limits(len(cases), budget=budget, labelled=taken)  # says what does not fit, before any long work
    return plan if choice.budget == AUTO else replace(plan, budget=budget)


def _study(target: ImagePool, gone: set[str], groups: dict[str, str], choice: Choice) -> list[FoldPlan]:
    workspace = Workspace(target.name)
    folders = [workspace.preprocessed, workspace.raw]
    plans = []
    for number, fold in enumerate(study_folds(target.identifiers, folders=folders, groups=groups)):
        pool, validation = ([case for case in fold[part] if case not in gone] for part in ("train", "val"))
        for part, cases in (("training", pool), ("validation", validation)):
            if not cases:
                raise UserError(f"fold {number} of {target.name} is left without a {part} case; exclude fewer cases")
        plans.append(_fold_plan(list(target.only(pool).cases), [], choice, validation))
    return plans
