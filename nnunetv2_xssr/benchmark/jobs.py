"""Trainings as jobs: one per set of cases and seed, each kept in a file of its own, so that any run goes on."""

import os
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.processes import Workers
from nnunetv2_xssr.records.files import atomic, is_there, sha256_json, write_json
from nnunetv2_xssr.records.schema import OURS, Count, Number, read_as

KIND, FORMAT_VERSION = "benchmark job", 1
_ADVICE = "delete it to train again"
DICE = "dice"  # the measure that every judge gives


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training.

    Attributes
    ----------
    judge : str
        Hash of everything that decides the result, apart from the training cases and the seed.
    cases : tuple of str
        Training cases, sorted: arms that chose the same set share the job.
    seed : int
        Of the training.
    """

    judge: str
    cases: tuple[str, ...]
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "cases", tuple(sorted(self.cases)))

    @property
    def key(self) -> str:
        """By which the result is found again."""
        return sha256_json(asdict(self))[:16]


Measures = dict[str, dict[str, Number]]  # the name of each measure, DICE at least, to its value for every test case
Judge = Callable[[Job], Measures]  # trains on the cases of a job and measures the test cases


def _with_dice(measures: Measures) -> Measures:
    if not measures.get(DICE):
        raise ValueError(f"must hold the {DICE} of every test case")
    return measures


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job measured.

    Attributes
    ----------
    judge, cases, seed
        Of the `Job`.
    measures : dict
        See `Measures`.
    seconds : float
    """

    __pydantic_config__ = OURS

    judge: str
    cases: list[str]
    seed: Count
    measures: Annotated[Measures, AfterValidator(_with_dice)]
    seconds: Number

    @property
    def job(self) -> Job:
        """The job that measured."""
        return Job(judge=self.judge, cases=tuple(self.cases), seed=self.seed)


def result_file(folder: Path, job: Job) -> Path:
    """Where the result of a job is kept."""
    return folder / f"{job.key}.json"


def load_result(folder: Path, job: Job) -> JobResult | None:
    """The result of a finished job; None if it is not finished, a `UserError` if the file holds that of another."""
    path = result_file(folder, job)
    if not is_there(path):
        return None
    result = read_result(path)
    if result.job != job:
        raise UserError(f"{path} holds the result of another job; {_ADVICE}")
    return result


def read_result(path: Path) -> JobResult:
    """Read the file of a finished job.

    Raises
    ------
    UserError
        If it is not as `run_jobs` writes it.
    """
    return read_as(path, JobResult, kind=KIND, version=FORMAT_VERSION, advice=_ADVICE)


def unfinished(jobs: Iterable[Job], folder: Path) -> list[Job]:
    """The jobs without a result, each once, in their order."""
    return [job for job in dict.fromkeys(jobs) if not result_file(folder, job).is_file()]


def run_jobs(jobs: Iterable[Job], *, judge: Judge, folder: Path, workers: int = 1, devices: Sequence[str] = ()) -> None:
    """Run the jobs that have no result yet.

    Parameters
    ----------
    jobs : iterable of Job
    judge : Judge
        It can be pickled where there are several workers.
    folder : Path
        Of the results.
    workers : int
        Processes; 1 is this one.
    devices : sequence of str
        What ``CUDA_VISIBLE_DEVICES`` names for each worker; empty leaves it as it is.

    Raises
    ------
    UserError
        What the judge raises, or if a process was ended from outside; the jobs that are finished are kept.
    """
    missing = unfinished(jobs, folder)
    if workers == 1 or len(missing) < 2:
        for job in tqdm(missing, desc="training", unit="job", disable=None):
            _run(job, judge, folder)
        return
    context = Workers()
    free = context.SimpleQueue()
    for number in range(workers):
        free.put(devices[number] if devices else None)
    with ProcessPoolExecutor(workers, context, _start, (judge, folder, free)) as pool:
        running = [pool.submit(_run_here, job) for job in missing]
        try:
            for done in tqdm(as_completed(running), total=len(running), desc="training", unit="job", disable=None):
                done.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that trained was ended from outside, as where the memory is full; what is finished is kept: "
                "free memory and run the command again"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: dict = {}  # what a worker process was started with


def _start(judge: Judge, folder: Path, free) -> None:
    device = free.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _worker.update(judge=judge, folder=folder)


def _run_here(job: Job) -> None:
    _run(job, **_worker)


def _run(job: Job, judge: Judge, folder: Path) -> None:
    begun = time.perf_counter()
    measures = judge(job)
    content = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        **asdict(job),
        "measures": measures,
        "seconds": round(time.perf_counter() - begun, 2),
    }
    write_json(result_file(folder, job), content)


def find_job(jobs: Collection[Job], key: str) -> Job:
    """The job with this key.

    Raises
    ------
    UserError
        If there is none.
    """
    for job in jobs:
        if job.key == key:
            return job
    raise UserError(f"--job must be a key from the file that --jobs wrote; got {key!r}, which is no job of this plan")


def write_commands(path: Path, jobs: Sequence[Job], *, command: Sequence[str]) -> None:
    """Write one command per job, for a cluster: ``command KEY``."""
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{shlex.join([*command, job.key])}\n" for job in jobs), encoding="utf-8")
