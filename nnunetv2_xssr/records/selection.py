"""The selection record ``selection.json``: what was picked, why, from what and how."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len
from pydantic import AfterValidator, StringConstraints, with_config
from typing_extensions import NotRequired, TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import is_there, write_json
from nnunetv2_xssr.records.manifest import selection_id
from nnunetv2_xssr.records.schema import OURS, THEIRS, AsItIs, Count, FileName, Line, Number, read_as
from nnunetv2_xssr.records.vetoes import Reason
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace

KIND, FORMAT_VERSION = "selection", 1
LEAST_CORRELATION = 0.2  # of doubt with what the model does wrong: a doubt that tells less is taken out
_ADVICE = "replace it by nnUNetv2_xssr_select with --overwrite"

Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$")]  # of rows in a cache
Curve = Annotated[list[Number], Len(1)]


def _equally_long(curve: dict) -> dict:
    lists = {name: len(values) for name, values in curve.items() if isinstance(values, list) and name != "overlap"}
    if len(set(lists.values())) > 1:
        raise ValueError(f"must have equally long lists {', '.join(lists)}")
    return curve


def _knee_among_budgets(curve: dict) -> dict:
    if curve["knee"] not in curve["budget"] or curve["budget"] != sorted(set(curve["budget"])):
        raise ValueError("must have rising numbers in budget, of which knee is one")
    return curve


@with_config(OURS)
class AlphaLists(TypedDict):
    """An `AlphaCurve` as JSON holds it: see `nnunetv2_xssr.selection.alpha`."""

    alpha: Curve
    mean_distance: Curve
    covering_radius: Curve
    novel_mean_distance: Curve
    overlap: list[Number]


@with_config(OURS)
class BudgetLists(TypedDict):
    """A `BudgetCurve` as JSON holds it: see `nnunetv2_xssr.selection.by_budget`."""

    budget: Annotated[list[Count], Len(1)]
    mean_distance: Curve
    random_least: Curve
    random_median: Curve
    random_most: Curve
    knee: Count


@with_config(OURS)
class KindsSeen(TypedDict):
    """The fields of `nnunetv2_xssr.selection.kinds.Kinds`."""

    sizes: Annotated[list[Count], Len(1)]
    missed: Count
    missed_by_random: Number


@with_config(OURS)
class DoubtFacts(TypedDict):
    """Which model was asked what it is unsure of, and what its doubt is worth.

    ``compared`` says which predictions were, ``correlation`` is that of doubt and of 1 - Dice by rank on so many
    ``validation_cases`` (None where it is not known), and ``weighted`` whether the doubt was taken into account.
    """

    model: str
    folds: Annotated[list[str], Len(1)]
    compared: Literal["folds", "mirrored"]
    correlation: Number | None
    validation_cases: Count
    weighted: bool


@with_config(THEIRS)
class ChosenSettings(TypedDict):
    """What the user chose, as far as it is read again."""

    source: list[FileName]
    budget: str
    strategy: str
    alpha: Number | None
    alpha_criterion: Literal["mean_distance", "covering_radius", "novel_mean_distance"]
    unit: Literal["case", "slice"]
    excluded: list[str]
    encoder: str | None
    dim: Literal[2, 3]
    embeddings: NotRequired[str | None]
    source_embeddings: NotRequired[str | None]
    encoder_weights: NotRequired[str | None]


@with_config(THEIRS)
class Provenance(TypedDict):
    """Hashes of what a selection was made from, as far as they are read again."""

    source: dict[FileName, str]
    embedding: Literal["grid+intensity", "grid", "average", "gap"]
    components: Count | None
    widths: NotRequired[list[Count] | None]
    encoder: str
    embeddings: str
    embeddings_cache: dict[FileName, Key]
    views_cache: NotRequired[dict[FileName, Key]]
    facts_cache: NotRequired[dict[FileName, Key]]
    predictions_cache: NotRequired[dict[FileName, Key]]


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One picked case.

    Attributes
    ----------
    rank : int
        From 1.
    case : str
    domain, group : str or None
    cost : float or None
    density, novelty, diversity : float
        The parts of its score at the moment it was picked, in [0, 1].
    score : float or None
        None for strategies without a score.
    stands_for : int
        Cases of the pool (slices, for a slice), itself included, that are nearer to it than to any other pick or
        labelled case.
    slice : int or None
        Of a volume whose slices are chosen one by one: counted from 0, in the order of the file.
    other_volumes : int or None
        Of a slice: other volumes of whose slices any is nearer to it than to any other pick or labelled slice.
    doubt : float or None
        Share of the other cases that could be picked of which the model is surer, in [0, 1]; None without a model.
    control : bool or None
        Whether it was drawn at random, to compare the others with; None where no case was.
    """

    __pydantic_config__ = {"extra": "ignore"}  # former versions numbered the views of a volume; its slice tells enough

    rank: Annotated[Count, Ge(1)]
    case: FileName
    domain: Line | None
    group: Line | None
    cost: Number | None
    density: Number
    novelty: Number
    diversity: Number
    score: Number | None
    stands_for: Count
    slice: Count | None = None
    other_volumes: Count | None = None
    doubt: Number | None = None
    control: bool | None = None


def _ranked(picks: list[Pick]) -> list[Pick]:
    if [pick.rank for pick in picks] != list(range(1, len(picks) + 1)):
        raise ValueError("must have the ranks 1, 2, ... in this order")
    if len({(pick.case, pick.slice) for pick in picks}) < len(picks):
        raise ValueError("must name no case or slice twice")
    return picks


def picked_slices(picks: Iterable[Pick]) -> dict[str, list[int]]:
    """The picked slices of every volume; volumes that were picked as a whole are not in it."""
    slices: dict[str, list[int]] = {}
    for pick in picks:
        if pick.slice is not None:
            slices.setdefault(pick.case, []).append(pick.slice)
    return slices


@dataclass(frozen=True, kw_only=True)
class FoldSelection:
    """The picks among the candidates of one fold (of the whole pool in annotation mode).

    Attributes
    ----------
    pool_size : int
        Cases that the picks stand for, or slices.
    budget : int, float or None
        Cases or slices asked for, or their total cost; None where the knee of the coverage decided.
    labelled : list of str
        Cases that counted as picked from the start.
    picks : list of Pick
    alpha : float or None
    alpha_curve : dict or None
        The lists of an `AlphaCurve`: see `nnunetv2_xssr.selection.alpha`.
    mean_distance, covering_radius, random_mean_distance : float
        See `nnunetv2_xssr.selection.Selection`.
    by_budget : dict or None
        The lists of a `BudgetCurve` and its knee: see `nnunetv2_xssr.selection.by_budget`.
    pool_domains, pool_groups : dict or None
        How many cases of the pool are of each domain and of each group (patient); None where no case has one.
    kinds : dict or None
        The fields of `nnunetv2_xssr.selection.kinds.Kinds`; None in older records, and with ``--scheduler``.
    left_out : list of str
        Slices that neither could be chosen nor are stood for: all of excluded volumes, and those of labelled volumes
        that were not drawn. In a study the cases that are in no part of the fold.
    """

    __pydantic_config__ = OURS

    pool_size: Annotated[Count, Ge(1)]
    budget: Number | None
    labelled: list[FileName]
    picks: Annotated[list[Pick], AfterValidator(_ranked)]
    alpha: Number | None
    alpha_curve: Annotated[AlphaLists, AfterValidator(_equally_long)] | None
    mean_distance: Number
    covering_radius: Number
    random_mean_distance: Number
    by_budget: Annotated[BudgetLists, AfterValidator(_equally_long), AfterValidator(_knee_among_budgets)] | None = None
    pool_domains: dict[str, Count] | None = None
    pool_groups: dict[str, Count] | None = None
    kinds: KindsSeen | None = None
    left_out: list[str] = field(default_factory=list)


def _on_curve(selection: FoldSelection) -> FoldSelection:
    if selection.by_budget and len(selection.picks) not in selection.by_budget["budget"]:
        raise ValueError("must have the number of its picks among the budgets of by_budget")
    return selection


@dataclass(frozen=True, kw_only=True)
class SelectionRecord:
    """Everything that one call of nnUNetv2_xssr_select decided.

    Attributes
    ----------
    dataset : str
    name : str
        Of the selection.
    mode : {"study", "annotation"}
        Whether every case has a label (one selection per fold) or not (one selection).
    settings : dict
        What the user chose.
    provenance : dict
        Hashes of pool, sources, encoder and embeddings.
    encoder : dict
        Its ``name``, ``identity`` and ``weights`` (hashes), ``transform`` and ``pooling``; empty in older records.
    versions : dict
        Of the packages that took part.
    selections : list of FoldSelection
    set_aside : list of str
        A sentence for every broken case.
    mixtures : list of str
        A sentence for every pool whose files differ in how they are stored.
    round : int
        From 1: how many times cases were chosen for annotation, this one included.
    groups : dict
        Case to group (patient) of the pool, where it is known; of the labelled and picked cases in older records.
    raters : dict
        Picked case to who draws it, the first named first; empty where the worklist was not dealt out.
    doubt : dict or None
        See `DoubtFacts`; None where no model was asked.
    vetoes : dict
        Case to why it shall not be annotated, None where nobody said: what this call excluded and, in annotation, what
        earlier rounds did, also of cases that are not in the pool any more.
    pictured : bool
        Whether its report and its worklist were written with pictures of cases.
    """

    __pydantic_config__ = OURS

    dataset: FileName
    mode: Literal["annotation", "study"]
    settings: Annotated[ChosenSettings, AsItIs]
    provenance: Annotated[Provenance, AsItIs]
    versions: dict[str, str]
    selections: Annotated[list[Annotated[FoldSelection, AfterValidator(_on_curve)]], Len(1)]
    set_aside: list[str] = field(default_factory=list)
    mixtures: list[str] = field(default_factory=list)
    round: Annotated[Count, Ge(1)] = 1
    groups: dict[FileName, Line] = field(default_factory=dict)
    name: FileName = DEFAULT_NAME
    encoder: dict[str, Any] = field(default_factory=dict)
    raters: dict[FileName, Annotated[list[FileName], Len(1)]] = field(default_factory=dict)
    doubt: DoubtFacts | None = None
    vetoes: dict[FileName, Reason | None] = field(default_factory=dict)
    pictured: bool = True

    @property
    def id(self) -> str:
        """By which its files know each other: see `nnunetv2_xssr.records.manifest`."""
        return selection_id(self.to_dict())

    @property
    def workspace(self) -> Workspace:
        """Where the files of this selection lie."""
        return Workspace(self.dataset, self.name)

    @property
    def picked(self) -> list[str]:
        """The cases picked in the first selection, which in annotation mode is the only one, in order, each once."""
        return list(dict.fromkeys(pick.case for pick in self.selections[0].picks))

    def to_dict(self) -> dict:
        """The record as plain values, as JSON holds it; it says nothing of doubt and control where there are none."""
        content = asdict(self)
        picks = [pick for selection in content["selections"] for pick in selection["picks"]]
        for part, name in [(content, "doubt"), *((pick, name) for pick in picks for name in ("doubt", "control"))]:
            if part[name] is None:
                del part[name]
        if content["pictured"]:  # as all records of older versions were
            del content["pictured"]
        return {"kind": KIND, "format_version": FORMAT_VERSION, **content}

    def write(self, path: Path) -> None:
        """Write the record atomically; equal inputs give equal bytes."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> "SelectionRecord":
        """Read a record back; a `UserError` says in one sentence what does not fit."""
        return read_as(path, cls, kind=KIND, version=FORMAT_VERSION, advice=_ADVICE)


def check_replaceable(path: Path, *, part: str, new: dict) -> None:
    """Raise `UserError` if there is a record whose ``part`` (settings or provenance) is another than ``new``.

    Nobody should lose a list that an annotator is working through because a command was typed again.
    """
    if not is_there(path):
        return
    old = getattr(SelectionRecord.load(path), part)
    differing = [
        f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise UserError(
            f"{path} holds a selection made with other {part} ({'; '.join(differing)}); "
            f"repeat those, or replace it with --overwrite"
        )
