"""The selection record ``selection.json``: what was picked, why, from what and how."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import check_format, read_json, write_json
from nnunetv2_xssr.records.manifest import selection_id
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace

KIND, FORMAT_VERSION = "selection", 1


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
    """

    rank: int
    case: str
    domain: str | None
    group: str | None
    cost: float | None
    density: float
    novelty: float
    diversity: float
    score: float | None
    stands_for: int
    slice: int | None = None
    other_volumes: int | None = None


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
        that were not drawn.
    """

    pool_size: int
    budget: float | None
    labelled: list[str]
    picks: list[Pick]
    alpha: float | None
    alpha_curve: dict | None
    mean_distance: float
    covering_radius: float
    random_mean_distance: float
    by_budget: dict | None = None
    pool_domains: dict[str, int] | None = None
    pool_groups: dict[str, int] | None = None
    kinds: dict | None = None
    left_out: list[str] = field(default_factory=list)


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
        Case to group (patient) of the labelled and picked cases, where it is known.
    """

    dataset: str
    mode: str
    settings: dict
    provenance: dict
    versions: dict
    selections: list[FoldSelection]
    set_aside: list[str] = field(default_factory=list)
    mixtures: list[str] = field(default_factory=list)
    round: int = 1
    groups: dict[str, str] = field(default_factory=dict)
    name: str = DEFAULT_NAME
    encoder: dict = field(default_factory=dict)

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
        """The record as plain values, as JSON holds it."""
        return {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write the record atomically; equal inputs give equal bytes."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> "SelectionRecord":
        """Read a record back; a `UserError` says in one sentence what does not fit."""
        content = read_json(path)
        check_format(content, KIND, FORMAT_VERSION, path)
        try:
            selections = [
                FoldSelection(**{**one, "picks": [_pick(**pick) for pick in one["picks"]]})
                for one in content["selections"]
            ]
            rest = {k: v for k, v in content.items() if k not in ("kind", "format_version", "selections")}
            return cls(selections=selections, **rest)
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} is not a whole selection record ({error}); replace it: --overwrite") from None


def _pick(view: int | None = None, **rest) -> Pick:
    """A pick of a record; former versions numbered the views of a volume, and its slice tells enough."""
    return Pick(**rest)


def check_replaceable(path: Path, *, part: str, new: dict) -> None:
    """Raise `UserError` if there is a record whose ``part`` (settings or provenance) is another than ``new``.

    Nobody should lose a list that an annotator is working through because a command was typed again.
    """
    if not path.is_file():
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
