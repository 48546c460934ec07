"""The selection over partitions: exact where it says so, close to the exact one elsewhere, whatever dies meanwhile."""

import json
import os
import signal
import sys
import threading
import time
import tracemalloc

import naive
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection import distributed as distributed_module
from nnunetv2_xssr.selection import select, standardise
from nnunetv2_xssr.selection.distributed import connect, select_partitions
from nnunetv2_xssr.selection.greedy import nearest_distance, replay, stand_for
from nnunetv2_xssr.selection.partitions import Partitions, write_partitions
from nnunetv2_xssr.selection.scores import density, mean_neighbour_distance, novelty

dask = pytest.importorskip("distributed", reason='Dask is not installed: pip install "nnunetv2_xssr[scale]"')
standardising = sys.modules["nnunetv2_xssr.selection.standardise"]  # the package has a function of this name
NUMBERS = ("density", "novelty", "diversity", "score", "stands_for")
COVERAGE = ("mean_distance", "covering_radius", "random_mean_distance")


class Here:
    """A client that runs every task at once in this process."""

    def submit(self, task, *arguments, pure, **options):
        return task(*arguments, **options)

    def gather(self, results):
        return results


@pytest.fixture(scope="module")
def client():
    """Two worker processes."""
    with (
        dask.LocalCluster(2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
        dask.Client(cluster) as client,
    ):
        yield client


def problem(kind="clustered", n=3000, d=32):
    """A pool and its source."""
    rows = naive.pool_of(kind, n + n // 10, d)
    return rows[:n], rows[n:]


# ------------------------------------------------------------------------------------------------------- partitions
def test_every_case_is_in_one_partition_and_standardised_as_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(standardising, "_BLOCK_BYTES", 8 * 32 * 100)
    pool, source = problem(n=1003)
    written = write_partitions(tmp_path, pool, n_partitions=4, source=source)
    assert Partitions.open(tmp_path) == written
    z, x = standardise(pool, source)
    numbers = [written.numbers(p) for p in range(4)]
    assert sorted(np.concatenate(numbers)) == list(range(1003))
    assert {len(part) for part in numbers} == {250, 251}
    for p, part in enumerate(numbers):
        assert (np.diff(part) > 0).all()
        np.testing.assert_array_equal(written.rows(p), z[part])
        assert 5 < (part < 40).sum() < 15  # neither slices of the pool nor turns
        assert len(set(part % 4)) == 4
    np.testing.assert_array_equal(np.concatenate(list(written.source())), x)
    some = np.array([7, 1000, 3])
    np.testing.assert_array_equal(written.take(written.rows, some), z[some])


def test_a_pool_on_disk_is_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(standardising, "_BLOCK_BYTES", 2**18)
    pool = np.lib.format.open_memmap(tmp_path / "pool.npy", "w+", np.float32, (2**16, 64))  # 16 MiB
    pool[:] = np.arange(64) + np.arange(2**16)[:, None] % 7
    tracemalloc.start()
    write_partitions(tmp_path / "parts", np.load(tmp_path / "pool.npy", mmap_mode="r"), n_partitions=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_partitions_written_again_forget_what_was_measured(tmp_path):
    first, second = problem("blobs")[0], problem("clustered")[0]
    write_partitions(tmp_path / "a", first, n_partitions=5)
    select_partitions(tmp_path / "a", 5, client=Here())
    for name in "ab":
        write_partitions(tmp_path / name, second, n_partitions=2)
    assert_same(
        select_partitions(tmp_path / "a", 5, client=Here()), select_partitions(tmp_path / "b", 5, client=Here())
    )
    assert len(list((tmp_path / "a").iterdir())) == 7  # three files a partition and the record


def test_the_same_partitions_are_left_as_they_are(tmp_path):
    pool, source = problem()
    write_partitions(tmp_path, pool, n_partitions=3, source=source)
    select_partitions(tmp_path, 5, client=Here())
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert write_partitions(tmp_path, pool, n_partitions=3, source=source) == Partitions.open(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    others = ({"seed": 1}, {"source": pool[:5]}, {"pool": pool[::-1]}, {"widths": [1, pool.shape[1] - 1]})
    for changed in others:
        write_partitions(tmp_path, **{"pool": pool, "n_partitions": 3, "source": source, **changed})
        assert not list(tmp_path.glob("distances_*"))
        select_partitions(tmp_path, 5, client=Here(), alpha=0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_partitions": 0}, "n_partitions must be between 1 and 40"),
        ({"n_partitions": 41}, "n_partitions must be between 1 and 40"),
        ({"pool": np.zeros(5)}, "pool must have the shape"),
        ({"source": np.zeros((4, 3))}, "as many features as the pool, 5; got 3"),
        ({"source": np.array([[0.0] * 5, [np.nan] * 5])}, "source must hold finite numbers only; .* row 1"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, words):
    arguments = {"pool": np.zeros((40, 5)), "n_partitions": 2, **change}
    with pytest.raises(UserError, match=words):
        write_partitions(tmp_path, **arguments)


def test_a_folder_that_was_not_finished_does_not_count(tmp_path, monkeypatch):
    pool, _ = problem()
    write_partitions(tmp_path, pool, n_partitions=2)
    with pytest.raises(UserError, match="row 2999"):
        write_partitions(tmp_path, np.vstack([pool[:-1], np.full(32, np.inf)]), n_partitions=2)
    Partitions.open(tmp_path)  # found before anything was touched
    monkeypatch.setattr("nnunetv2_xssr.selection.partitions._append", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_partitions(tmp_path, pool, n_partitions=3)
    with pytest.raises(UserError, match="partitions.json does not exist"):
        Partitions.open(tmp_path)


# -------------------------------------------------------------------------------------------------------- selection
def assert_same(result, expected):
    np.testing.assert_array_equal(result.picks, expected.picks)
    assert result.alpha == expected.alpha
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), err_msg=name)
    for name in COVERAGE:  # sums in another order
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-12), name
    assert result.curve.overlap == expected.curve.overlap
    assert result.curve.mean_distance == pytest.approx(expected.curve.mean_distance, rel=1e-12)
    assert result.curve.covering_radius == expected.curve.covering_radius
    assert result.curve.novel_mean_distance == pytest.approx(expected.curve.novel_mean_distance, rel=1e-12)


@pytest.mark.parametrize(
    ("labelled", "source"),
    [*(pytest.param(labelled, True, marks=pytest.mark.slow) for labelled in (None, [3, 1999])), (None, False)],
)
def test_one_partition_gives_the_exact_selection(tmp_path, labelled, source):
    pool, archive = problem(n=6000)
    archive = archive if source else None
    write_partitions(tmp_path, pool, n_partitions=1, source=archive)
    expected = select(pool, 60, source=archive, labelled=labelled, strategy="xssr_sum")
    assert_same(select_partitions(tmp_path, 60, client=Here(), labelled=labelled), expected)


@pytest.mark.parametrize("kind", ["duplicates", *naive.slow("clustered", "isotropic")])
def test_distances_to_neighbours_are_exact(tmp_path, kind):
    pool, source = problem(kind, 12_000)  # partitions with a sketch
    written = write_partitions(tmp_path, pool, n_partitions=2, source=source)
    select_partitions(tmp_path, 1, client=Here(), alpha=0.5)
    z, x = standardise(pool, source)
    found = written.take(written.distances, np.arange(len(pool)))
    np.testing.assert_array_equal(found[:, 0], mean_neighbour_distance(z, k=20))
    np.testing.assert_array_equal(found[:, 1], mean_neighbour_distance(z, k=20, others=x))


@pytest.mark.parametrize(
    ("kind", "united"), [("clustered", 32), ("blobs", 32), ("isotropic", 32), ("duplicates", 32), ("clustered", 3)]
)
def test_coverage_is_within_two_percent_of_the_exact(tmp_path, monkeypatch, kind, united):
    monkeypatch.setattr(distributed_module, "_UNITED", united)  # 3: unions of unions
    pool, source = problem(kind)
    write_partitions(tmp_path, pool, n_partitions=8, source=source)
    exact = select(pool, 150, source=source, strategy="xssr_sum")
    result = select_partitions(tmp_path, 150, client=Here())
    assert result.mean_distance <= 1.02 * exact.mean_distance
    assert result.random_mean_distance == pytest.approx(exact.random_mean_distance, rel=1e-12)


def test_every_number_is_about_the_whole_pool(tmp_path):
    pool, source = problem()
    labelled = np.array([5, 17, 2500])
    write_partitions(tmp_path, pool, n_partitions=5, source=source)
    result = select_partitions(tmp_path, 40, client=Here(), labelled=labelled[::-1], density_weight=0.7, seed=3)
    z, x = standardise(pool, source)
    diversity, nearest = replay(z, picks=result.picks, chosen=labelled)
    np.testing.assert_array_equal(result.density, density(z)[result.picks])
    np.testing.assert_array_equal(result.novelty, novelty(z, x)[result.picks])
    np.testing.assert_array_equal(result.diversity, diversity)
    score = 0.7 * result.density + result.alpha * result.novelty + (1 - result.alpha) * diversity
    np.testing.assert_allclose(result.score, score, rtol=1e-12)
    assert result.mean_distance == pytest.approx(nearest.mean(), rel=1e-12)
    assert result.covering_radius == nearest.max()
    chosen = np.append(labelled, result.picks)
    np.testing.assert_array_equal(result.stands_for, stand_for(z, rows=z[chosen], own=chosen)[len(labelled) :])
    assert result.mean_distance == min(result.curve.mean_distance)
    assert result.alpha == result.curve.alpha[np.argmin(result.curve.mean_distance)]
    exact = select(pool, 40, source=source, labelled=labelled, seed=3, strategy="xssr_sum")
    assert result.random_mean_distance == pytest.approx(exact.random_mean_distance, rel=1e-12)


def test_a_burst_leaves_the_others_their_density_in_partitions_too(tmp_path):
    pool = np.concatenate([problem("isotropic", 500)[0], np.repeat(problem("isotropic", 1)[0], 50, axis=0)])
    write_partitions(tmp_path, pool, n_partitions=3)
    result = select_partitions(tmp_path, 100, client=Here())
    np.testing.assert_array_equal(result.density, density(standardise(pool)[0])[result.picks])
    assert np.median(result.density) > 0.1


def test_labelled_cases_of_every_partition_count_in_all(tmp_path):
    rng = np.random.default_rng(0)
    pool = np.repeat(np.eye(4), 30, axis=0) + 0.01 * rng.standard_normal((120, 4))  # four clusters
    write_partitions(tmp_path, pool, n_partitions=3)
    labelled = np.array([0, 30, 60])
    result = select_partitions(tmp_path, 1, client=Here(), labelled=labelled, density_weight=0.0)
    assert 90 <= result.picks[0] < 120


@st.composite
def small_problems(draw):
    n, d = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    pool = rng.integers(-2, 3, (n, d)).astype(np.float32)  # with duplicates
    source = draw(st.sampled_from([None, pool[::2] + 1]))
    labelled = draw(st.lists(st.integers(0, n - 1), max_size=n - 1, unique=True))
    budget = draw(st.integers(1, n - len(labelled)))
    return pool, source, np.array(labelled, int), budget, draw(st.integers(1, min(n, 4)))


@settings(max_examples=40)
@given(small_problems())
def test_whatever_the_points_the_contract_holds(tmp_path_factory, case):
    pool, source, labelled, budget, n_partitions = case
    folder = tmp_path_factory.mktemp("partitions")
    write_partitions(folder, pool, n_partitions=n_partitions, source=source)
    result = select_partitions(folder, budget, client=Here(), labelled=labelled)
    picks = result.picks.tolist()
    assert len(set(picks)) == budget == len(picks)
    assert not set(picks) & set(labelled.tolist()) and set(picks) <= set(range(len(pool)))
    numbers = [result.density, result.novelty, result.diversity]
    assert all(np.isfinite(part).all() and part.min() >= 0 and part.max() <= 1 for part in numbers)
    nearest = nearest_distance(standardise(pool)[0], chosen=np.append(labelled, result.picks))
    assert result.mean_distance == pytest.approx(nearest.mean(), rel=1e-12)
    assert result.covering_radius == nearest.max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": 0}, "budget must be between 1 and 3000"),
        ({"budget": 2999, "labelled": [0, 1]}, "budget must be between 1 and 2998"),
        ({"labelled": [3000]}, "labelled must name rows of the pool, 0 to 2999"),
        ({"alpha": 1.5}, "alpha must be a number between 0 and 1"),
        ({"alpha_criterion": "best"}, "alpha_criterion must be one of"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"density_weight": -1.0}, "density_weight must be 0 or more"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, change, words):
    write_partitions(tmp_path, problem()[0], n_partitions=3)
    with pytest.raises(UserError, match=words):
        select_partitions(tmp_path, **{"budget": 3, "client": Here(), **change})


# ----------------------------------------------------------------------------------------------------- broken files
def test_a_missing_partition_is_named(tmp_path, client):
    write_partitions(tmp_path, problem()[0], n_partitions=3)
    (tmp_path / "rows_00001.npy").unlink()
    with pytest.raises(UserError, match="rows_00001.npy does not exist"):
        select_partitions(tmp_path, 3, client=client)


@pytest.mark.parametrize("name", ["rows", "numbers"])
def test_a_partition_that_was_cut_off_is_named(tmp_path, name):
    path = write_partitions(tmp_path, problem()[0], n_partitions=3).file(name, 2)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{name}_00002.npy cannot be read"):
        select_partitions(tmp_path, 3, client=Here())


def test_a_partition_of_another_pool_is_named(tmp_path):
    path = write_partitions(tmp_path, problem()[0], n_partitions=3).file("rows", 2)
    np.save(path, np.zeros((1000, 16), np.float32))
    with pytest.raises(UserError, match=r"rows_00002.npy must have the shape \(1000, 32\).*got \(1000, 16\)"):
        select_partitions(tmp_path, 3, client=Here())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"kind": "selection"}, "is not an nnunetv2_xssr partitions"),
        ({"n_cases": "many"}, 'n_cases must be a whole number; got "many"'),
        ({"n_partitions": 0}, "n_partitions must be 1 or more; got 0"),
        ({"n_cases": 2990}, r"must have the shape \(997, 32\)"),
    ],
)
def test_a_record_that_does_not_fit(tmp_path, change, words):
    write_partitions(tmp_path, problem()[0], n_partitions=3)
    path = tmp_path / "partitions.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        select_partitions(tmp_path, 3, client=Here())


# ---------------------------------------------------------------------------------------------------------- workers
def test_a_cluster_gives_what_one_process_gives(tmp_path, client):
    pool, source = problem()
    for name in "ab":
        write_partitions(tmp_path / name, pool, n_partitions=5, source=source)
    one = select_partitions(tmp_path / "a", 50, client=Here(), labelled=np.array([1, 2]))
    assert_same(select_partitions(tmp_path / "b", 50, client=client, labelled=np.array([1, 2])), one)


def test_distances_are_measured_once(tmp_path):
    written = write_partitions(tmp_path, problem()[0], n_partitions=2)
    first = select_partitions(tmp_path, 5, client=Here())
    measured = written.file("distances", 0).stat().st_mtime_ns
    assert_same(select_partitions(tmp_path, 5, client=Here()), first)
    assert written.file("distances", 0).stat().st_mtime_ns == measured


def test_a_killed_worker_changes_nothing(tmp_path, client):
    pool, source = problem(n=6000)
    for name in "ab":
        write_partitions(tmp_path / name, pool, n_partitions=12, source=source)
    expected = select_partitions(tmp_path / "a", 50, client=Here(), alpha=0.5)
    victim = min(client.run(os.getpid).values())
    measured = []

    def kill():
        while not any((tmp_path / "b").glob("distances_*")):
            time.sleep(0.001)
        os.kill(victim, signal.SIGKILL)
        measured.extend((tmp_path / "b").glob("distances_*"))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = select_partitions(tmp_path / "b", 50, client=client, alpha=0.5)
    killer.join()
    assert len(measured) < 12  # in the middle
    assert victim not in client.run(os.getpid).values()
    assert_same(result, expected)


def test_tasks_that_keep_losing_their_workers(tmp_path):
    class Dying(Here):
        def gather(self, results):
            raise dask.scheduler.KilledWorker("task", None, 3)

    write_partitions(tmp_path, problem()[0], n_partitions=3)
    with pytest.raises(UserError, match="a task lost 4 workers, .* more partitions or give each worker more memory"):
        select_partitions(tmp_path, 3, client=Dying())


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r'pip install "nnunetv2_xssr\[scale\]"'), connect("local"):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://"])
def test_a_scheduler_that_does_not_answer_is_named(monkeypatch, address):
    monkeypatch.setattr(distributed_module, "_TIMEOUT", 0.5)
    with pytest.raises(UserError, match=f"no Dask scheduler with a worker answers at '{address}'"), connect(address):
        pass


def test_an_existing_scheduler_is_used_and_left_running(client):
    address = client.scheduler.address
    with connect(address) as ours:
        assert ours.scheduler.address == address
    assert len(client.scheduler_info()["workers"]) == 2


def test_a_cluster_of_this_machine_listens_to_this_machine_only():
    before = {connection.laddr for connection in psutil.Process().net_connections("inet")}
    with connect("local") as client:
        processes = [os.getpid(), *client.run(os.getpid).values()]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in psutil.Process(process).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and connection.laddr not in before
        }
    assert listening == {"127.0.0.1"}
