"""A benchmark from its plan to its results, in one folder: any run goes on where the last one stopped."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.benchmark.jobs import Job, Judge, find_job, load_result, read_result, run_jobs, unfinished
from nnunetv2_xssr.benchmark.nnunet_judge import NnunetJudge, epochs_of
from nnunetv2_xssr.benchmark.page import write_page
from nnunetv2_xssr.benchmark.plan import FAST, Benchmark, Plan
from nnunetv2_xssr.benchmark.results import Results, write_csv, write_markdown
from nnunetv2_xssr.benchmark.small_cases import absent_labels, read_small_cases
from nnunetv2_xssr.benchmark.small_judge import FastJudge
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.pipeline.repeat import from_anywhere
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import visible_files
from nnunetv2_xssr.trainer_link.linking import ensure_linked

# What is expected of a training until one was measured: the fast judge on one core, nnU-Net on a recent GPU.
SECONDS_OF_FAST_JUDGE, SECONDS_PER_EPOCH = 8.0, 60.0


@dataclass(frozen=True)
class BenchmarkFolder:
    """The files of one benchmark."""

    path: Path

    @property
    def record(self) -> Path:
        """The record."""
        return self.path / "benchmark.json"

    @property
    def encoders(self) -> Path:
        """The encoders, one per seed."""
        return self.path / "encoders"

    @property
    def jobs(self) -> Path:
        """The results, one file per training."""
        return self.path / "jobs"

    @property
    def log(self) -> Path:
        """What the commands of nnU-Net print."""
        return self.path / "benchmark.log"

    @property
    def results(self) -> tuple[Path, Path, Path]:
        """CSV, Markdown and page."""
        return self.path / "results.csv", self.path / "results.md", self.path / "report.html"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a benchmark still takes.

    Attributes
    ----------
    encoders : int
        To be pretrained.
    trainings : int
    at_most : bool
        Whether arms may still turn out to choose the same cases.
    seconds : float
        Of one training.
    measured : bool
        Whether the seconds are those of finished trainings.
    workers : int
        That train at the same time.
    """

    encoders: int
    trainings: int
    at_most: bool
    seconds: float
    measured: bool
    workers: int


def kept_benchmark(plan: Plan, folder: BenchmarkFolder) -> Benchmark | None:
    """The benchmark of this plan, if its arms were chosen before.

    Raises
    ------
    UserError
        If the folder holds a benchmark whose results or encoders cannot be those of this plan.
    """
    if not is_there(folder.record):
        return None
    kept = Benchmark.load(folder.record)
    sources = from_anywhere({"s": kept.settings.sources})["s"]  # older records have them as they were typed
    if (kept.judge, sources) != (plan.judge, plan.settings.sources):
        raise UserError(
            f"{folder.path} holds a benchmark of {kept.settings.target} with other data, sources, test cases or judge; "
            f"give another folder to -o"
        )
    return kept if kept.settings == plan.settings else None


def choose_arms(plan: Plan, folder: BenchmarkFolder, *, device: str) -> Benchmark:
    """Choose the arms of a plan, and keep the record; what was chosen before is kept.

    Parameters
    ----------
    plan : Plan
    folder : BenchmarkFolder
    device : {"cpu", "cuda", "mps"}
    """
    benchmark = kept_benchmark(plan, folder)
    if benchmark is None:
        benchmark = plan.choose(folder.encoders, device=device)
        benchmark.write(folder.record)
    return benchmark


def cost_of(plan: Plan, folder: BenchmarkFolder, *, device: str) -> Cost:
    """What is still to be done, before anything is."""
    benchmark = kept_benchmark(plan, folder)
    files = [path for path in visible_files(folder.jobs) if path.suffix == ".json"]  # none that a job is writing
    finished = [read_result(path).seconds for path in files]
    settings = plan.settings
    expected = SECONDS_OF_FAST_JUDGE if settings.judge == FAST else SECONDS_PER_EPOCH * epochs_of(settings.trainer)
    return Cost(
        encoders=0 if benchmark else plan.missing_encoders(folder.encoders),
        trainings=len(unfinished(benchmark.jobs, folder.jobs)) if benchmark else plan.most_trainings,
        at_most=benchmark is None,
        seconds=float(np.mean(finished)) if finished else expected,
        measured=bool(finished),
        workers=_workers(settings.judge, device)[0],
    )


def train(benchmark: Benchmark, folder: BenchmarkFolder, *, device: str) -> None:
    """Run all jobs that are not finished: the fast judge on all cores, nnU-Net on all GPUs, or one by one."""
    if missing := unfinished(benchmark.jobs, folder.jobs):
        workers, devices = _workers(benchmark.settings.judge, device)
        judge = _judge_of(benchmark, missing, folder, device=device)
        run_jobs(missing, judge=judge, folder=folder.jobs, workers=workers, devices=devices)


def train_one(key: str, folder: BenchmarkFolder, *, device: str) -> Job:
    """Run one job of a benchmark whose arms are chosen, on a machine of a cluster."""
    benchmark = Benchmark.load(folder.record)
    job = find_job(benchmark.jobs, key)
    if load_result(folder.jobs, job) is None:
        run_jobs([job], judge=_judge_of(benchmark, [job], folder, device=device), folder=folder.jobs)
    return job


def write_results(benchmark: Benchmark, folder: BenchmarkFolder) -> Results:
    """Write CSV, Markdown and page of a benchmark whose jobs are all finished."""
    results = Results(benchmark, folder.jobs)
    for write, path in zip((write_csv, write_markdown, write_page), folder.results, strict=True):
        write(path, results)
    return results


def _judge_of(benchmark: Benchmark, jobs: list[Job], folder: BenchmarkFolder, *, device: str) -> Judge:
    """The judge with the cases that these jobs need."""
    settings, test = benchmark.settings, tuple(benchmark.test)
    if settings.judge == FAST:
        needed = dataset_pool(settings.target).only([*test, *(case for job in jobs for case in job.cases)])
        cases = read_small_cases(needed)
        if sentence := absent_labels(cases, test, needed.dataset_json):
            logger.warning(sentence)
        return FastJudge(cases=cases, test=test)
    if line := ensure_linked():
        logger.info(line)
    return NnunetJudge(
        dataset=settings.target,
        test=test,
        device=device,
        folder=folder.path,
        **settings.network,
    )


def _workers(judge: str, device: str) -> tuple[int, list[str]]:
    """How many processes train, and the GPU of each."""
    if judge == FAST:
        return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1), []
    if device != "cuda":
        return 1, []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    return len(devices), devices
