"""The selection on many machines: partitions on disk, Dask, and the two-round greedy.

Round one runs the greedy in every partition, round two runs it over the union of what the partitions picked (GreeDi,
Mirzasoleiman et al. 2013; on random partitions RandGreeDi, Barbosa et al. 2015). Unions are of 32 partitions at most,
and then unions of unions, so that a union fits into memory however many there are (composable core-sets, Mirrokni &
Zadimoghaddam 2015). Everything else, density and novelty, coverage and the parts of the scores, is exact.

A task is given paths and row numbers and reads what it needs. What it makes is small, or lies on disk when it is
whole: when a worker is lost, Dask repeats elsewhere what the worker had not finished, and nothing changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection._engine.neighbours import nearest_distances
from nnunetv2_xssr.selection.alpha import ALPHAS, AlphaCurve
from nnunetv2_xssr.selection.greedy import greedy, replay, stand_for
from nnunetv2_xssr.selection.partitions import Partitions
from nnunetv2_xssr.selection.scores import N_NEIGHBOURS, density_span, raw_density, scaled
from nnunetv2_xssr.selection.select import N_RANDOM_DRAWS, Selection

if TYPE_CHECKING:
    from distributed import Client

_UNITED = 32  # partitions whose picks are united at a time
_PATIENCE = 60  # seconds to wait for a scheduler and its first worker

_Scale = tuple[np.ndarray, np.ndarray]  # least raw density and novelty of the pool, and their spans, shape (2,) each


@contextmanager
def connect(scheduler: str) -> Iterator["Client"]:
    """Connect to a Dask scheduler, or to a cluster of this machine's cores, which ends with the block.

    Parameters
    ----------
    scheduler : str
        An address such as ``tcp://host:8786``, or ``local``.

    Raises
    ------
    UserError
        If Dask is not installed, or nobody answers, or the scheduler has no worker.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError(
            'a scheduler needs Dask, which is not installed; run: pip install "nnunetv2_xssr[scale]"'
        ) from None
    if scheduler == "local":
        # One thread a worker: compiled loops and matrix products keep a core busy each.
        with LocalCluster(threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=_PATIENCE)
        client.wait_for_workers(1, timeout=_PATIENCE)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"no Dask scheduler with a worker answers at {scheduler!r} ({error}); give local or an address such as "
            f"tcp://host:8786 where `dask scheduler` runs and `dask worker` has joined"
        ) from None
    with client:
        yield client


@dataclass(frozen=True)
class _Problem:
    """What all tasks know.

    Attributes
    ----------
    partitions : Partitions
        Of which only the folder and the sizes travel.
    budget : int
    labelled : int array
        Rows of the pool, ascending.
    density_weight : float
    """

    partitions: Partitions
    budget: int
    labelled: np.ndarray
    density_weight: float


def select_partitions(
    folder: Path,
    budget: int,
    client: "Client",
    labelled: np.ndarray | None = None,
    alpha: float | None = None,
    density_weight: float = 0.5,
    seed: int = 0,
    alpha_criterion: str = "mean_distance",
) -> Selection:
    """Pick ``budget`` of the cases in a folder of partitions; see `nnunetv2_xssr.selection.select`.

    With one partition the picks are exactly those of `select`. With more the greedy has two rounds, and its covering
    radius r(S) in round two is that of the union. All numbers of the result are exact and about the whole pool.

    Parameters
    ----------
    folder : Path
        What `nnunetv2_xssr.selection.partitions.write_partitions` wrote, with the source if there is one. Mean
        distances to neighbours are kept there, and a later call with any settings starts from them.
    budget : int
        k, between 1 and the number of cases that are not labelled.
    client : distributed.Client
        Connected to workers that see the folder under the same path.
    labelled : int array, optional
        Rows of the pool that have a label already: they count as picked and cost nothing.
    alpha : float in [0, 1], optional
        Calibrated by default, and 0 without a source.
    density_weight : float
    seed : int
        For the random draws that the coverage is compared with.
    alpha_criterion : str

    Raises
    ------
    UserError
        If an argument or a file does not fit, or tasks keep losing their workers.
    """
    partitions = Partitions.open(folder)
    labelled = np.empty(0, int) if labelled is None else np.unique(np.asarray(labelled, int))
    _check(partitions.n_cases, budget, labelled, alpha, density_weight)
    alphas = ((alpha,) if alpha is not None else ALPHAS) if partitions.n_source else (0.0,)
    # As a task's result it travels once to a worker and not with every task, and can be made again.
    problem = client.submit(_Problem, partitions, budget, labelled, density_weight, pure=False)

    def everywhere(task, *arguments):
        return [client.submit(task, p, problem, *arguments, pure=False) for p in range(partitions.n_partitions)]

    def rounds(alpha):
        picked = everywhere(_pick_in_partition, scale, alpha)
        while len(picked) > 1:
            unions = [picked[start : start + _UNITED] for start in range(0, len(picked), _UNITED)]
            picked = [client.submit(_pick_in_union, union, problem, scale, alpha, pure=False) for union in unions]
        return picked[0]

    with _memory_named():
        client.gather(everywhere(_measure))
        scale = _scale(partitions)
        sets = [rounds(alpha) for alpha in alphas]
        curves = _curves(np.array(client.gather(everywhere(_cover, scale, sets, seed))), partitions.n_cases)
        best = int(np.argmin(curves[alpha_criterion][: len(alphas)]))
        # Every partition knows the covering radius of its own cases at every step; the largest is the pool's.
        diversity = np.min(client.gather(everywhere(_replay, sets[best])), axis=0)
        stands_for = np.sum(client.gather(everywhere(_stand_for, sets[best])), axis=0)
        picks = client.gather(sets)
    density, novelty = _scores(partitions.take(partitions.distances, picks[best]), scale).T
    overlap = tuple(len(np.intersect1d(*pair)) / budget for pair in zip(picks[:-1], picks[1:], strict=True))
    return Selection(
        picks[best],
        density,
        novelty,
        diversity,
        density_weight * density + alphas[best] * novelty + (1 - alphas[best]) * diversity,
        alphas[best],
        AlphaCurve(alphas, **{k: tuple(v[: len(alphas)].tolist()) for k, v in curves.items()}, overlap=overlap),
        float(curves["mean_distance"][best]),
        float(curves["covering_radius"][best]),
        float(np.median(curves["mean_distance"][len(alphas) :])),
        stands_for,
    )


def _scale(partitions: Partitions) -> _Scale:
    """What density and novelty are scaled by: it takes the quartile of all cases, so 16 bytes of each are read here."""
    raw = _raw(np.concatenate([partitions.distances(p) for p in range(partitions.n_partitions)]))
    return raw.min(axis=0), np.array([density_span(raw[:, 0]), np.ptp(raw[:, 1])])


def _curves(parts: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """The criteria of `nnunetv2_xssr.selection.alpha` from what `_cover` tells of all partitions, for every set."""
    distances, novel_distances, novelty = parts[:, :, [0, 2, 3]].sum(axis=0).T
    mean = distances / n
    return {
        "mean_distance": mean,
        "covering_radius": parts[:, :, 1].max(axis=0),
        "novel_mean_distance": np.where(novelty > 0, novel_distances / np.where(novelty > 0, novelty, 1), mean),
    }


@contextmanager
def _memory_named() -> Iterator[None]:
    """Say what to do when Dask gives a task up because the workers that began it died."""
    from distributed.scheduler import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise UserError(
            f"a task lost {error.allowed_failures + 1} workers, most likely because a worker's memory is too small for "
            f"two partitions; write more partitions or give every worker more memory"
        ) from None


def _check(n: int, budget: int, labelled: np.ndarray, alpha: float | None, density_weight: float) -> None:
    if len(labelled) and not (0 <= labelled[0] and labelled[-1] < n):
        raise UserError(f"labelled must name rows of the pool, 0 to {n - 1}; got {labelled.tolist()}")
    free = n - len(labelled)
    if not 1 <= budget <= free:
        raise UserError(f"budget must be between 1 and {free}, the number of cases without a label; got {budget}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise UserError(f"alpha must be between 0 and 1; got {alpha}")
    if not density_weight >= 0:
        raise UserError(f"density_weight must be 0 or more; got {density_weight}")


# ------------------------------------------------------------------------------------------- what runs on the workers
def _measure(p: int, problem: _Problem) -> None:
    """Write the mean distances of partition p's cases to their neighbours, if they are not there yet."""
    partitions = problem.partitions
    path = partitions.file("distances", p)
    if path.is_file():
        return
    n, count = partitions.n_cases, partitions.n_partitions
    cells = cells_of(partitions.rows(p))
    distances = np.zeros((len(cells.pool), 2))
    if n > 1:
        # The own partition first, then the next one: workers begin with different files.
        others = (partitions.rows((p + step) % count) for step in range(1, count))
        distances[:, 0] = nearest_distances(cells, min(N_NEIGHBOURS, n - 1), chain([None], others)).mean(axis=1)
    if m := partitions.n_source:
        distances[:, 1] = nearest_distances(cells, min(N_NEIGHBOURS, m), partitions.source()).mean(axis=1)
    with atomic(path) as temporary:
        np.save(temporary, distances)


def _pick_in_partition(p: int, problem: _Problem, scale: _Scale, alpha: float) -> np.ndarray:
    """Round one: the greedy's picks among partition p, rows of the pool."""
    partitions = problem.partitions
    free = ~np.isin(partitions.numbers(p), problem.labelled)
    rows, distances = partitions.rows(p)[free], partitions.distances(p)[free]
    return partitions.numbers(p)[free][_greedy(problem, rows, _scores(distances, scale), alpha)]


def _pick_in_union(picked: list[np.ndarray], problem: _Problem, scale: _Scale, alpha: float) -> np.ndarray:
    """Round two: the greedy's picks among those of several partitions, rows of the pool."""
    partitions = problem.partitions
    union = np.sort(np.concatenate(picked))  # in the order of the pool, which decides ties
    rows, distances = partitions.take(partitions.rows, union), partitions.take(partitions.distances, union)
    return union[_greedy(problem, rows, _scores(distances, scale), alpha)]


def _greedy(problem: _Problem, rows: np.ndarray, scores: np.ndarray, alpha: float) -> np.ndarray:
    """Which of these unlabelled rows the greedy picks, with all labelled ones in S: all rows if there are too few."""
    labelled = problem.partitions.take(problem.partitions.rows, problem.labelled)
    m, budget = len(labelled), min(problem.budget, len(rows))
    fixed = np.append(np.zeros(m), problem.density_weight * scores[:, 0] + alpha * scores[:, 1])
    return greedy(np.concatenate([labelled, rows]), fixed, 1 - alpha, budget, np.arange(m))[0] - m


def _cover(
    p: int, problem: _Problem, scale: _Scale, sets: list[np.ndarray], seed: int
) -> list[tuple[float, float, float, float]]:
    """How near every set is, and then every random draw, to the cases of partition p.

    Sum and maximum of their distances, sum of novelty times distance, and sum of novelty.
    """
    partitions, labelled = problem.partitions, problem.labelled
    cells = cells_of(partitions.rows(p))
    novelty = _scores(partitions.distances(p), scale)[:, 1]
    result = []
    for rows in chain(sets, _random_draws(problem, seed)):
        picked = partitions.take(partitions.rows, np.concatenate([labelled, rows]))
        nearest = nearest_distances(cells, 1, [picked])[:, 0]
        result.append((float(nearest.sum()), float(nearest.max()), float(novelty @ nearest), float(novelty.sum())))
    return result


def _random_draws(problem: _Problem, seed: int) -> Iterator[np.ndarray]:
    """The same draws as `nnunetv2_xssr.selection.select` makes, without a list of all cases."""
    labelled = problem.labelled
    rng = np.random.default_rng(seed)
    before = labelled - np.arange(len(labelled))  # unlabelled cases before each labelled one
    for _ in range(N_RANDOM_DRAWS):
        draw = rng.choice(problem.partitions.n_cases - len(labelled), problem.budget, replace=False)
        yield draw + np.searchsorted(before, draw, side="right")


def _replay(p: int, problem: _Problem, picks: np.ndarray) -> np.ndarray:
    """Diversity of every pick at its moment, with the covering radius of partition p and the picks alone."""
    partitions, m = problem.partitions, len(problem.labelled)
    first = partitions.take(partitions.rows, np.concatenate([problem.labelled, picks]))
    rows = np.concatenate([first, partitions.rows(p)])
    return replay(rows, m + np.arange(len(picks)), np.arange(m))[0]


def _stand_for(p: int, problem: _Problem, picks: np.ndarray) -> np.ndarray:
    """How many cases of partition p have each pick as their nearest pick or labelled case."""
    partitions = problem.partitions
    chosen = np.concatenate([problem.labelled, picks])
    place = {row: i for i, row in enumerate(partitions.numbers(p).tolist())}
    own = np.array([place.get(row, -1) for row in chosen.tolist()], int)
    rows = partitions.take(partitions.rows, chosen)
    return stand_for(partitions.rows(p), rows, own)[len(problem.labelled) :]


def _raw(distances: np.ndarray) -> np.ndarray:
    """Density and novelty before they are scaled over the pool, shape (n, 2); see `nnunetv2_xssr.selection.scores`."""
    return np.column_stack([raw_density(distances[:, 0]), distances[:, 1]])


def _scores(distances: np.ndarray, scale: _Scale) -> np.ndarray:
    """Density and novelty, shape (n, 2), scaled over the pool."""
    pairs = zip(_raw(distances).T, *scale, strict=True)
    return np.column_stack([scaled(raw, least=least, span=span) for raw, least, span in pairs])
