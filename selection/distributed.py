"""Selection on many machines: partitions on disk, Dask, and the two-round greedy.

Round one runs the greedy in each partition, round two runs it on the union of the picks of all partitions (GreeDi,
Mirzasoleiman et al. 2013; on random partitions RandGreeDi, Barbosa et al. 2015). A union has at most 32 partitions;
more partitions give unions of unions, so that each fits into memory (composable core-sets, Mirrokni & Zadimoghaddam
2015). Everything else is exact: density, novelty, coverage and the parts of the scores.

A task gets paths and row numbers, and reads what it needs. Its result is small, or a file that appears once it is
complete. If a worker is lost, Dask repeats elsewhere what it had not finished, and the result is the same.
"""

from collections.abc import Callable, Iterator
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
from nnunetv2_xssr.selection.alpha import AlphaCurve, alphas_to_try
from nnunetv2_xssr.selection.constraints import Constraints
from nnunetv2_xssr.selection.greedy import greedy, replay, stand_for
from nnunetv2_xssr.selection.options import check_options, labelled_rows
from nnunetv2_xssr.selection.partitions import Partitions
from nnunetv2_xssr.selection.scores import N_NEIGHBOURS, density_span, raw_density, scaled
from nnunetv2_xssr.selection.select import N_RANDOM_DRAWS, Selection

if TYPE_CHECKING:
    from distributed import Client

_UNITED = 32  # most partitions in a union
_TIMEOUT = 60  # seconds to wait for a scheduler and its first worker

_Range = tuple[np.ndarray, np.ndarray]  # least raw density and novelty of the pool, and their spans, shape (2,) each


@contextmanager
def connect(scheduler: str) -> Iterator["Client"]:
    """Connect to a Dask scheduler, or to a cluster of this machine's cores that ends with the block.

    Parameters
    ----------
    scheduler : str
        An address such as ``tcp://host:8786``, or ``local``.

    Raises
    ------
    UserError
        If Dask is not installed, or no scheduler with a worker answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError(
            'a scheduler needs Dask, which is not installed; run: pip install "nnunetv2_xssr[scale]"'
        ) from None
    if scheduler == "local":
        # Whoever reaches a port of the cluster can run code in it: only this machine can, and there is no dashboard.
        # One thread per worker: each compiled loop and matrix product keeps a core busy.
        own = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        with (
            LocalCluster(host="127.0.0.1", threads_per_worker=1, scheduler_kwargs=own) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=_TIMEOUT)
        client.wait_for_workers(1, timeout=_TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"no Dask scheduler with a worker answers at {scheduler!r} ({error}); give local or an address such as "
            f"tcp://host:8786 where `dask scheduler` runs and `dask worker` has joined"
        ) from None
    with client:
        yield client


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What all tasks need to know.

    Attributes
    ----------
    partitions : Partitions
        Only the folder and the sizes travel.
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
    *,
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
        distances to neighbours are kept there, and later calls with any settings use them.
    budget : int
        k, between 1 and the number of cases without a label.
    client : distributed.Client
        Its workers see the folder under the same path.
    labelled : int array, optional
        Rows of the pool that have a label: they count as picked and cost nothing.
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
    check_options(alpha=alpha, density_weight=density_weight, alpha_criterion=alpha_criterion, seed=seed)
    labelled = labelled_rows(labelled, n=partitions.n_cases)
    Constraints().limits(partitions.n_cases, budget=budget, labelled=labelled)  # checks the budget
    alphas = alphas_to_try(alpha, has_source=partitions.n_source > 0)
    # As the result of a task it travels once to each worker and not with each task, and can be made again.
    shared = client.submit(
        _Shared, partitions=partitions, budget=budget, labelled=labelled, density_weight=density_weight, pure=False
    )

    def everywhere(task: Callable, *arguments) -> list:
        return [client.submit(task, p, shared, *arguments, pure=False) for p in range(partitions.n_partitions)]

    def rounds(alpha: float):
        picked = everywhere(_pick_in_partition, scores, alpha)
        while len(picked) > 1:
            unions = [picked[start : start + _UNITED] for start in range(0, len(picked), _UNITED)]
            picked = [client.submit(_pick_in_union, union, shared, scores, alpha, pure=False) for union in unions]
        return picked[0]

    with _advice_on_memory():
        client.gather(everywhere(_measure))
        scores = _score_range(partitions)
        sets = [rounds(alpha) for alpha in alphas]
        curves = _curves(np.array(client.gather(everywhere(_cover, scores, sets, seed))), partitions.n_cases)
        best = int(np.argmin(curves[alpha_criterion][: len(alphas)]))
        # Each partition knows the covering radius of its own cases at each step; the largest is that of the pool.
        diversity = np.min(client.gather(everywhere(_replay, sets[best])), axis=0)
        stands_for = np.sum(client.gather(everywhere(_stand_for, sets[best])), axis=0)
        picks = client.gather(sets)
    density, novelty = _scores(partitions.take(partitions.distances, picks[best]), scores).T
    overlap = tuple(len(np.intersect1d(*pair)) / budget for pair in zip(picks[:-1], picks[1:], strict=True))
    of_alphas = {name: tuple(values[: len(alphas)].tolist()) for name, values in curves.items()}
    return Selection(
        picks=picks[best],
        density=density,
        novelty=novelty,
        diversity=diversity,
        score=density_weight * density + alphas[best] * novelty + (1 - alphas[best]) * diversity,
        alpha=alphas[best],
        curve=AlphaCurve(alpha=alphas, **of_alphas, overlap=overlap),
        mean_distance=float(curves["mean_distance"][best]),
        covering_radius=float(curves["covering_radius"][best]),
        random_mean_distance=float(np.median(curves["mean_distance"][len(alphas) :])),
        stands_for=stands_for,
    )


def _score_range(partitions: Partitions) -> _Range:
    """The range by which density and novelty are scaled. Its quantile takes 16 bytes of each case into memory."""
    raw = _raw(np.concatenate([partitions.distances(p) for p in range(partitions.n_partitions)]))
    return raw.min(axis=0), np.array([density_span(raw[:, 0]), np.ptp(raw[:, 1])])


def _curves(parts: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """The criteria of `nnunetv2_xssr.selection.alpha` for each set, from the results of `_cover` in all partitions."""
    distances, novel_distances, novelty = parts[:, :, [0, 2, 3]].sum(axis=0).T
    mean = distances / n
    return {
        "mean_distance": mean,
        "covering_radius": parts[:, :, 1].max(axis=0),
        "novel_mean_distance": np.where(novelty > 0, novel_distances / np.where(novelty > 0, novelty, 1), mean),
    }


@contextmanager
def _advice_on_memory() -> Iterator[None]:
    """Say what to do if Dask gives up a task because the workers that began it died."""
    from distributed.scheduler import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise UserError(
            f"a task lost {error.allowed_failures + 1} workers, most likely because a worker's memory is too small for "
            f"two partitions; write more partitions or give each worker more memory"
        ) from None


# ------------------------------------------------------------------------------------------- what runs on the workers
def _measure(p: int, shared: _Shared) -> None:
    """Write the mean distances of partition p's cases to their neighbours, if they are not there yet."""
    partitions = shared.partitions
    path = partitions.file("distances", p)
    if path.is_file():
        return
    n, count = partitions.n_cases, partitions.n_partitions
    cells = cells_of(partitions.rows(p))
    distances = np.zeros((len(cells.pool), 2))
    if n > 1:
        # The own partition first, then the next one: workers begin with different files.
        parts = chain([None], (partitions.rows((p + step) % count) for step in range(1, count)))
        distances[:, 0] = nearest_distances(cells, k=min(N_NEIGHBOURS, n - 1), parts=parts).mean(axis=1)
    if m := partitions.n_source:
        distances[:, 1] = nearest_distances(cells, k=min(N_NEIGHBOURS, m), parts=partitions.source()).mean(axis=1)
    with atomic(path) as temporary:
        np.save(temporary, distances)


def _pick_in_partition(p: int, shared: _Shared, scores: _Range, alpha: float) -> np.ndarray:
    """Round one: the greedy's picks in partition p, as rows of the pool."""
    partitions = shared.partitions
    unlabelled = ~np.isin(partitions.numbers(p), shared.labelled)
    rows, distances = partitions.rows(p)[unlabelled], partitions.distances(p)[unlabelled]
    return partitions.numbers(p)[unlabelled][_greedy(shared, rows, _scores(distances, scores), alpha)]


def _pick_in_union(picked: list[np.ndarray], shared: _Shared, scores: _Range, alpha: float) -> np.ndarray:
    """Round two: the greedy's picks among those of several partitions, as rows of the pool."""
    partitions = shared.partitions
    union = np.sort(np.concatenate(picked))  # in the order of the pool, which decides ties
    rows, distances = partitions.take(partitions.rows, union), partitions.take(partitions.distances, union)
    return union[_greedy(shared, rows, _scores(distances, scores), alpha)]


def _greedy(shared: _Shared, rows: np.ndarray, scores: np.ndarray, alpha: float) -> np.ndarray:
    """Which of these unlabelled rows the greedy picks, with all labelled ones in S: all rows if there are too few."""
    labelled = shared.partitions.take(shared.partitions.rows, shared.labelled)
    m = len(labelled)
    picks, _ = greedy(
        np.concatenate([labelled, rows]),
        fixed=np.append(np.zeros(m), shared.density_weight * scores[:, 0] + alpha * scores[:, 1]),
        diversity_weight=1 - alpha,
        budget=min(shared.budget, len(rows)),
        chosen=np.arange(m),
    )
    return picks - m


def _cover(
    p: int, shared: _Shared, scores: _Range, sets: list[np.ndarray], seed: int
) -> list[tuple[float, float, float, float]]:
    """How near each set, and then each random draw, is to the cases of partition p.

    Sum and maximum of their distances, sum of novelty times distance, and sum of novelty.
    """
    partitions, labelled = shared.partitions, shared.labelled
    cells = cells_of(partitions.rows(p))
    novelty = _scores(partitions.distances(p), scores)[:, 1]
    result = []
    for rows in chain(sets, _random_draws(shared, seed)):
        picked = partitions.take(partitions.rows, np.concatenate([labelled, rows]))
        nearest = nearest_distances(cells, k=1, parts=[picked])[:, 0]
        result.append((float(nearest.sum()), float(nearest.max()), float(novelty @ nearest), float(novelty.sum())))
    return result


def _random_draws(shared: _Shared, seed: int) -> Iterator[np.ndarray]:
    """The draws of `nnunetv2_xssr.selection.select`, made without a list of all cases."""
    labelled = shared.labelled
    rng = np.random.default_rng(seed)
    before = labelled - np.arange(len(labelled))  # unlabelled cases before each labelled one
    for _ in range(N_RANDOM_DRAWS):
        draw = rng.choice(shared.partitions.n_cases - len(labelled), shared.budget, replace=False)
        yield draw + np.searchsorted(before, draw, side="right")


def _replay(p: int, shared: _Shared, picks: np.ndarray) -> np.ndarray:
    """Diversity of each pick when it was picked, with the covering radius of partition p and the picks alone."""
    partitions, m = shared.partitions, len(shared.labelled)
    first = partitions.take(partitions.rows, np.concatenate([shared.labelled, picks]))
    rows = np.concatenate([first, partitions.rows(p)])
    return replay(rows, picks=m + np.arange(len(picks)), chosen=np.arange(m))[0]


def _stand_for(p: int, shared: _Shared, picks: np.ndarray) -> np.ndarray:
    """How many cases of partition p have each pick as their nearest pick or labelled case."""
    partitions = shared.partitions
    chosen = np.concatenate([shared.labelled, picks])
    position = {row: i for i, row in enumerate(partitions.numbers(p).tolist())}
    own = np.array([position.get(row, -1) for row in chosen.tolist()], int)
    rows = partitions.take(partitions.rows, chosen)
    return stand_for(partitions.rows(p), rows=rows, own=own)[len(shared.labelled) :]


def _raw(distances: np.ndarray) -> np.ndarray:
    """Density and novelty before they are scaled over the pool, shape (n, 2); see `nnunetv2_xssr.selection.scores`."""
    return np.column_stack([raw_density(distances[:, 0]), distances[:, 1]])


def _scores(distances: np.ndarray, of_pool: _Range) -> np.ndarray:
    """Density and novelty, shape (n, 2), scaled over the pool."""
    columns = zip(_raw(distances).T, *of_pool, strict=True)
    return np.column_stack([scaled(raw, least=least, span=span) for raw, least, span in columns])
