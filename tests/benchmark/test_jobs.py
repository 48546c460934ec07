"""Jobs: each set of cases is trained once, results are kept, and a run goes on where it stopped."""

import json
import os
import shlex
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunetv2_xssr.benchmark.jobs import Job, find_job, load_result, run_jobs, unfinished, write_commands
from nnunetv2_xssr.errors import UserError


@dataclass
class Counting:
    """A judge that leaves a mark in a folder for every training."""

    folder: Path
    breaks_at: str = ""

    def __call__(self, job):
        if self.breaks_at in job.cases:
            raise UserError("this training fails")
        number = len(list(self.folder.glob(f"{job.key}*")))
        (self.folder / f"{job.key}_{number}_{os.environ.get('CUDA_VISIBLE_DEVICES')}").touch()
        return {"dice": {"test_1": len(job.cases) / 10, "test_2": job.seed / 10}}


def job(*cases, seed=0, judge="counting"):
    return Job(judge=judge, cases=cases, seed=seed)


def test_a_job_is_its_set_of_cases_its_judge_and_its_seed():
    assert job("a", "b") == job("b", "a")
    keys = {one.key for one in (job("a", "b"), job("a"), job("a", "b", seed=1), job("a", "b", judge="other"))}
    assert len(keys) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_every_set_is_trained_once_and_kept(tmp_path, workers):
    marks, results = tmp_path / "marks", tmp_path / "jobs"
    marks.mkdir()
    jobs = [job("a", "b"), job("b", "a"), job("c"), job("c", seed=1)]
    for _ in range(2):
        run_jobs(jobs, judge=Counting(marks), folder=results, workers=workers)
    assert len(list(marks.iterdir())) == 3
    assert unfinished(jobs, results) == []
    result = load_result(results, jobs[0])
    assert result.measures == {"dice": {"test_1": 0.2, "test_2": 0.0}} and result.seconds >= 0


def test_what_was_finished_before_a_failure_is_kept(tmp_path):
    jobs = [job("a"), job("bad"), job("b")]
    with pytest.raises(UserError, match="this training fails"):
        run_jobs(jobs, judge=Counting(tmp_path, breaks_at="bad"), folder=tmp_path / "jobs")
    assert unfinished(jobs, tmp_path / "jobs") == jobs[1:]
    run_jobs(jobs, judge=Counting(tmp_path), folder=tmp_path / "jobs")
    assert unfinished(jobs, tmp_path / "jobs") == []


def test_a_failure_in_a_worker_is_the_same_sentence(tmp_path):
    with pytest.raises(UserError, match="this training fails"):
        run_jobs([job("a"), job("bad")], judge=Counting(tmp_path, breaks_at="bad"), folder=tmp_path / "j", workers=2)


def killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="ended from outside.*run the command again"):
        run_jobs([job("a"), job("b")], judge=killed, folder=tmp_path / "j", workers=2)


def test_every_worker_has_a_device_of_its_own(tmp_path):
    jobs = [job(str(i)) for i in range(6)]
    run_jobs(jobs, judge=Counting(tmp_path), folder=tmp_path / "jobs", workers=2, devices=["0", "1"])
    assert {path.name.split("_")[-1] for path in tmp_path.glob("*_0_*")} <= {"0", "1"}


def test_a_result_that_is_cut_off_is_named(tmp_path):
    run_jobs([job("a")], judge=Counting(tmp_path), folder=tmp_path)
    file = tmp_path / f"{job('a').key}.json"
    file.write_text(file.read_text()[:20])
    with pytest.raises(UserError, match=job("a").key):
        load_result(tmp_path, job("a"))


def test_a_result_in_the_place_of_another_is_named(tmp_path):
    run_jobs([job("a"), job("b")], judge=Counting(tmp_path), folder=tmp_path / "jobs")
    one, other = (tmp_path / "jobs" / f"{job(case).key}.json" for case in "ab")
    one.rename(other)
    assert load_result(tmp_path / "jobs", job("a")) is None
    with pytest.raises(UserError, match=f"{other.name} holds the result of another job; delete it"):
        load_result(tmp_path / "jobs", job("b"))


def test_commands_for_a_cluster(tmp_path):
    jobs = [job("a"), job("b")]
    write_commands(tmp_path / "jobs.txt", jobs, command=["run", "-o", "a folder", "--job"])
    lines = (tmp_path / "jobs.txt").read_text().splitlines()
    assert [shlex.split(line) for line in lines] == [["run", "-o", "a folder", "--job", one.key] for one in jobs]
    assert find_job(jobs, jobs[1].key) == jobs[1]
    with pytest.raises(UserError, match="0000"):
        find_job(jobs, "0000")


def test_the_record_says_what_it_is(tmp_path):
    run_jobs([job("b", "a", seed=2)], judge=Counting(tmp_path), folder=tmp_path / "jobs")
    (file,) = (tmp_path / "jobs").iterdir()
    content = json.loads(file.read_text())
    assert (content["cases"], content["seed"], content["judge"]) == (["a", "b"], 2, "counting")
