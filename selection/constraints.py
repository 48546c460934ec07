"""Constraints of real pools as users state them: costs, quotas per domain, patients, near-duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.selection.limits import Limits

QUOTAS = ("proportional", "equal")
_ROUNDING = 1 + 1e-9  # so that costs such as 0.1 can spend a budget completely


@dataclass(frozen=True, eq=False, kw_only=True)
class Constraints:
    """What the picks must respect, under every strategy; what is not given does not limit.

    Attributes
    ----------
    cost : array of shape (n,), positive, optional
        Cost of annotating each case, in any unit. The budget is then the total cost of the picks.
    domain : sequence of n names, optional
        Site or scanner of each case.
    domain_quota : {"proportional", "equal"} or mapping of name to number, optional
        How annotation is shared among the domains: in proportion to their cases (or costs) in the pool, in equal parts,
        or as given. "proportional" and "equal" hold for labelled cases and picks together, as far as possible: picks
        go to the domains that lack most, and a domain with more labels than its share gets none. If a domain has too
        few cases, the others share the rest. Given numbers are numbers (or costs) of new picks.
    group : sequence of n names, optional
        Patient of each case; None for a case of its own.
    max_per_group : int, optional
        Most cases per group, labelled ones included.
    volume : sequence of n names, optional
        Where slices of volumes are chosen in the place of cases: that of each slice.
    max_per_volume : int, optional
        Most slices per volume, labelled ones included.
    min_distance : float between 0 and 2
        Least distance of a pick to any other pick or labelled case; copies have distance 0.
    excluded : int array, optional
        Rows that are treated as if they were not in the pool.
    """

    cost: np.ndarray | Sequence[float] | None = None
    domain: Sequence[str | None] | None = None
    domain_quota: str | Mapping[str, float] | None = None
    group: Sequence[str | None] | None = None
    max_per_group: int | None = None
    volume: Sequence[str] | None = None
    max_per_volume: int | None = None
    min_distance: float = 0.0
    excluded: np.ndarray | None = None

    @property
    def limiting(self) -> bool:
        """Whether there is any constraint besides excluded rows."""
        given = self.cost, self.domain_quota, self.max_per_group, self.max_per_volume
        return self.min_distance > 0 or any(value is not None for value in given)

    def check(self, n: int) -> None:
        """Raise `UserError` if a constraint does not fit a pool of n cases."""
        for name in ("cost", "domain", "group", "volume"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise UserError(f"{name} must have one entry per case, {n}; got {len(values)}")
        needs = {"domain_quota": "domain", "max_per_group": "group", "max_per_volume": "volume"}
        for name, needed in needs.items():
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise UserError(f"{name} needs the {needed} of each case; give {needed}")
        if self.cost is not None and not (np.isfinite(self.cost) & (np.asarray(self.cost) > 0)).all():
            row = int(np.argmin(np.isfinite(self.cost) & (np.asarray(self.cost) > 0)))
            raise UserError(f"cost must be positive for every case; got {self.cost[row]} in row {row}")
        if isinstance(self.domain_quota, str) and self.domain_quota not in QUOTAS:
            raise one_of("domain_quota", (*QUOTAS, "a number per domain"), self.domain_quota)
        for name, most in (("max_per_group", self.max_per_group), ("max_per_volume", self.max_per_volume)):
            if most is not None and most < 1:
                raise UserError(f"{name} must be 1 or more; got {most}")
        if not 0 <= self.min_distance <= 2:
            raise UserError(f"min_distance must be between 0 and 2; got {self.min_distance}")
        if self.excluded is not None and len(self.excluded):
            if not 0 <= np.min(self.excluded) <= np.max(self.excluded) < n:
                raise UserError(f"excluded must name rows of the pool, 0 to {n - 1}; got {list(self.excluded)}")

    def only(self, rows: np.ndarray) -> "Constraints":
        """The constraints of these rows of the pool; none of them is excluded."""

        def of_rows(values: Sequence | np.ndarray | None) -> list | None:
            return None if values is None else [values[i] for i in rows]

        return replace(
            self,
            cost=of_rows(self.cost),
            domain=of_rows(self.domain),
            group=of_rows(self.group),
            volume=of_rows(self.volume),
            excluded=None,
        )

    def limits(self, n: int, *, budget: float, labelled: np.ndarray | Sequence[int]) -> tuple[int, Limits]:
        """The most cases that the budget can buy, and the limits for the strategies.

        Parameters
        ----------
        n : int
            Cases in the pool.
        budget : int, or float under a cost
        labelled : int array

        Raises
        ------
        UserError
            If the budget does not fit, the quotas do not fit the budget, or no case is open. Distances are not known
            here: see `check_open`.
        """
        unlabelled = _without(n, labelled)
        cost = self._costs(n)[unlabelled]
        if not unlabelled.any():
            raise UserError("every case is labelled; nothing is left to pick")
        if self.cost is None and not (1 <= budget <= len(cost) and int(budget) == budget):
            raise UserError(
                f"budget must be between 1 and {len(cost)}, the number of cases without a label; got {budget}"
            )
        if not cost.min() <= budget * _ROUNDING:
            raise UserError(f"budget must be {cost.min():g} or more, the cost of the cheapest case; got {budget}")
        most, limits = self.unchecked_limits(n, budget=budget, labelled=labelled)
        self.check_open(limits, labelled=labelled)
        return most, limits

    def unchecked_limits(self, n: int, *, budget: float, labelled: np.ndarray | Sequence[int]) -> tuple[int, Limits]:
        """`limits` of a budget that may buy nothing, and that may leave no case open."""
        unlabelled, cost = _without(n, labelled), self._costs(n)
        most = int((np.cumsum(np.sort(cost[unlabelled])) <= budget * _ROUNDING).sum())
        rows = []  # label, use and room of every limit
        if self.cost is not None:
            rows.append((np.zeros(n, int), cost, np.array([budget])))
        if self.domain_quota is not None and self.domain is not None:
            names, label = _numbered([name or "" for name in self.domain])
            shares = self._shares(names, label=label, cost=cost, unlabelled=unlabelled, budget=budget)
            rows.append((label, cost, shares))
        for most_each, belongs in ((self.max_per_group, self.group), (self.max_per_volume, self.volume)):
            if most_each is not None and belongs is not None:
                # A case without a group forms its own; a pair differs from every name that a user can give.
                _, label = _numbered([str(name) if name else ("", i) for i, name in enumerate(belongs)])
                room = np.full(label.max() + 1, float(most_each))
                np.subtract.at(room, label[labelled], 1)
                rows.append((label, np.ones(n), room))
        label, use = np.zeros((len(rows), n), np.int64), np.zeros((len(rows), n))
        room = np.zeros((len(rows), max((len(row[2]) for row in rows), default=1)))
        for p, row in enumerate(rows):
            label[p], use[p], room[p, : len(row[2])] = row[0], row[1], row[2] * _ROUNDING
        return most, Limits(label=label, use=use, room=room, cost=cost, min_distance=float(self.min_distance))

    def check_open(
        self, limits: Limits, *, labelled: np.ndarray | Sequence[int], nearest: np.ndarray | None = None
    ) -> None:
        """Raise `UserError` if the limits leave no case to pick.

        Parameters
        ----------
        limits : Limits
        labelled : int array
        nearest : array of shape (n,), optional
            Distance of each case to the nearest labelled one; without it ``min_distance`` does not count.
        """
        limits_given = {
            "budget": self.cost,
            "domain_quota": self.domain_quota,
            "max_per_group": self.max_per_group,
            "max_per_volume": self.max_per_volume,
        }
        names = [name for name, value in limits_given.items() if value is not None]
        opened = dict(zip(names, limits.opened(), strict=True))
        if nearest is not None and self.min_distance > 0:
            opened["min_distance"] = nearest >= self.min_distance
        unlabelled = _without(len(limits.cost), labelled)
        if np.logical_and.reduce([unlabelled, *opened.values()]).any():
            return
        closing = [name for name, is_open in opened.items() if not (unlabelled & is_open).any()][:1] or list(opened)
        leave, one = ("leaves", "it") if len(closing) == 1 else ("leave", "one")
        raise UserError(
            f"{' and '.join(closing)} {leave} none of the {unlabelled.sum()} cases without a label open; loosen {one}"
        )

    def _costs(self, n: int) -> np.ndarray:
        return np.ones(n) if self.cost is None else np.asarray(self.cost, np.float64)

    def _shares(
        self, names: list[str], *, label: np.ndarray, cost: np.ndarray, unlabelled: np.ndarray, budget: float
    ) -> np.ndarray:
        """How much of the budget each domain gets, shape (domains,)."""
        has, available = (np.bincount(label[rows], cost[rows], len(names)) for rows in (~unlabelled, unlabelled))
        if isinstance(self.domain_quota, Mapping):
            return _given_shares(self.domain_quota, names=names, available=available, budget=budget)
        parts = has + available if self.domain_quota == "proportional" else np.ones(len(names))
        shares = _water_filling(parts, has=has, available=available, budget=min(budget, available.sum()))
        return shares if self.cost is not None else _whole_cases(shares, available)


def _without(n: int, labelled: np.ndarray | Sequence[int]) -> np.ndarray:
    """Which of n cases have no label, bool array of shape (n,)."""
    unlabelled = np.ones(n, bool)
    unlabelled[labelled] = False
    return unlabelled


def _numbered(names: list) -> tuple[list, np.ndarray]:
    """The distinct names in order, and the number of each name among them."""
    distinct = sorted(set(names), key=str)
    number = {name: i for i, name in enumerate(distinct)}
    return distinct, np.array([number[name] for name in names], np.int64)


def _given_shares(quota: Mapping[str, float], *, names: list[str], available: np.ndarray, budget: float) -> np.ndarray:
    """The shares that a user gave by name, shape (domains,)."""
    unknown = sorted(set(quota) - set(names))
    if unknown:
        raise UserError(f"domain_quota must name domains of the pool, {', '.join(names)}; got {unknown[0]}")
    shares = np.array([quota.get(name, 0.0) for name in names], np.float64)
    if not np.isclose(shares.sum(), budget):
        raise UserError(f"domain_quota must add up to the budget, {budget:g}; got {shares.sum():g}")
    for name, share, most in zip(names, shares, available, strict=True):
        if not 0 <= share <= most * _ROUNDING:
            raise UserError(f"domain_quota of {name} must be between 0 and {most:g}, what has no label; got {share:g}")
    return shares


def _water_filling(parts: np.ndarray, *, has: np.ndarray, available: np.ndarray, budget: float) -> np.ndarray:
    """Share a budget so that ``has + shares`` is as proportional to ``parts`` as possible.

    The shares are clip(level * parts - has, 0, available). They grow with the level, piecewise linearly, and the level
    at which they add up to the budget is the solution.
    """
    levels = np.unique([has / parts, (has + available) / parts])
    shares = [np.clip(level * parts - has, 0, available) for level in levels]
    level = np.interp(budget, np.sum(shares, axis=1), levels)
    return np.clip(level * parts - has, 0, available)


def _whole_cases(shares: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Round to whole cases with the same sum: the largest remainders are rounded up, ties go to the first domain."""
    whole = np.floor(shares * _ROUNDING)
    remainder = np.where(whole < available, shares - whole, -1.0)
    order = np.argsort(-remainder.round(9), kind="stable")
    whole[order[: round(shares.sum() - whole.sum())]] += 1
    return whole
