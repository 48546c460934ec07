"""Files of another shape: every command that reads one ends well or with one sentence, and never with a traceback.

A file that is read anew gets a row in `FILES` or `READERS`.
"""

import json
import shutil

import pytest
import torch
from making import SOURCE, TARGET, Workspace
from mutating import kept, mutations, outcome
from plans import write_plans

from nnunetv2_xssr.annotation.handover import template_hashes
from nnunetv2_xssr.benchmark.arms import Arm
from nnunetv2_xssr.benchmark.jobs import read_result
from nnunetv2_xssr.benchmark.plan import Benchmark, Settings
from nnunetv2_xssr.commands import collect, embed, report, select, status, verify
from nnunetv2_xssr.demo.study import Drawn
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import read_index
from nnunetv2_xssr.images.dicom import _read_record
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.records.files import write_json
from nnunetv2_xssr.records.schema import read_as
from nnunetv2_xssr.records.split import read_split
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.records.validation_summary import read_dice
from nnunetv2_xssr.selection.partitions import Partitions

STATUS = (status.main, ["-d", "2"])
VERIFY = (verify.main, ["-d", "2"])
STATUS_JSON = (status.main, ["-d", "2", "--json"])
REPORT = (report.main, ["-d", "2", "--json"])
COLLECT = (collect.main, ["-d", "2"])
SELECT = (select.main, ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"])
EMBED = (embed.main, ["-d", "2", "--encoder", "intensity", "-o", "features.npz", "-device", "cpu"])
RECORD, CACHES = f"preprocessed/{TARGET}/xssr/xssr/selection.json", f"preprocessed/{TARGET}/xssr/caches"
FOLD = f"results/{TARGET}/XSSRTrainer__nnUNetPlans__2d/fold_0/xssr_fold.json"

FILES = {
    "dataset.json": (f"raw/{TARGET}/dataset.json", [STATUS, COLLECT, REPORT, VERIFY, SELECT]),
    "dataset.json of the source": (f"raw/{SOURCE}/dataset.json", [SELECT]),
    "selection.json": (RECORD, [STATUS, STATUS_JSON, COLLECT, REPORT, VERIFY, SELECT]),
    "split": (f"preprocessed/{TARGET}/splits_xssr.json", [STATUS, COLLECT, VERIFY, SELECT]),
    "plans": (f"preprocessed/{TARGET}/nnUNetPlans.json", [STATUS, COLLECT]),
    "frozen fold": (FOLD, [STATUS]),
    "hashes of files": (f"{CACHES}/files.json", [SELECT, EMBED]),
    "index of views": (f"{CACHES}/views/index_*.json", [STATUS, REPORT, VERIFY]),
    "manifest": (f"preprocessed/{TARGET}/xssr/xssr/manifest.json", [STATUS, COLLECT, VERIFY, SELECT]),
    "index of embeddings": (f"{CACHES}/embeddings/index_*.json", [REPORT, SELECT]),
}


@pytest.fixture(scope="module")
def study(_ready, tmp_path_factory):
    """A dataset with a selection, a label in the hand-over, plans, and a fold that nnU-Net has begun."""
    root = tmp_path_factory.mktemp("shapes") / "nnunet"
    shutil.copytree(_ready.root, root)
    workspace = Workspace(root)
    write_plans(workspace.preprocessed / TARGET)
    split = [{"train": ["t_00", "t_01"], "val": ["t_02"]}, {"train": ["t_02"], "val": ["t_00", "t_01"]}]
    write_json(workspace.split(), split)
    TrainedFold(selection="xssr", **split[0]).write(root / FOLD)
    return workspace


@pytest.fixture
def inside(study, monkeypatch):
    for name, value in study.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(study.root)
    with kept(study.root):
        yield study


def changed_files(workspace, name):
    pattern, _ = FILES[name]
    (path,) = sorted(workspace.root.glob(pattern))[:1]
    return path, list(mutations(json.loads(path.read_text())))


def check(inside, capsys, faults, name, some):
    path, changes = changed_files(inside, name)
    for number, (words, content) in enumerate(changes):
        for place, (main, argv) in enumerate(FILES[name][1]):
            if not some(number + place):
                continue
            with kept(inside.root):
                path.write_text(json.dumps(content))
                problem = outcome(capsys, main, argv)
            command = main.__module__.rpartition(".")[2]
            faults.note("bad input", name, command, tracebacks=[f"{words}: {problem}"] * bool(problem))
    faults.check()


@pytest.mark.parametrize("name", FILES)
def test_some_changes(inside, capsys, faults, name):
    check(inside, capsys, faults, name, lambda number: number % 89 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_all_changes(inside, capsys, faults, name):
    check(inside, capsys, faults, name, lambda number: True)


# ---------------------------------------------------------------------------------------- what one function reads
def benchmark(path):
    settings = Settings(
        target=TARGET,
        sources=[],
        budgets=["3"],
        strategies=["kmeans"],
        draws=2,
        seeds=1,
        training_seeds=1,
        judge="fast",
        configuration="2d",
        trainer="XSSRTrainer_5epochs",
        plans_name="nnUNetPlans",
        test=None,
        cases=None,
    )
    pool = ["a", "b", "d", "e"]
    units = [("random", 0, pool[:3]), ("random", 1, pool[1:]), ("kmeans", 0, pool[:3]), ("whole pool", 0, pool)]
    arms = [Arm(strategy=name, budget=len(cases), number=number, cases=cases) for name, number, cases in units]
    whole = Benchmark(settings=settings, judge="x", test=["c"], domains=["A"], pool_size=4, arms=arms, groups=["c"])
    whole.write(path)
    assert Benchmark.load(path) == whole


HEAD = {"kind": "case rows", "format_version": 2}
READERS = {
    "split": ("s.json", [{"train": ["a"], "val": ["b"]}], read_split),
    "validation": (
        "summary.json",
        {"metric_per_case": [{"metrics": {"1": {"Dice": 0.5}}, "prediction_file": "/a/b.png"}]},
        read_dice,
    ),
    "templates": ("templates.json", {"a.png": "00"}, lambda path: template_hashes(path.parent)),
    "partitions": (
        "partitions.json",
        {
            "kind": "partitions",
            "format_version": 1,
            "seed": 0,
            "n_cases": 9,
            "n_features": 2,
            "n_partitions": 3,
            "n_source": 0,
            "sha256": "0",
        },
        lambda path: Partitions.open(path.parent),
    ),
    "job": (
        "job.json",
        {
            "kind": "benchmark job",
            "format_version": 1,
            "judge": "x",
            "cases": ["b"],
            "seed": 0,
            "measures": {"dice": {"a": 0.5}},
            "seconds": 1.0,
        },
        read_result,
    ),
    "dicom": (
        "dicom.json",
        {
            "kind": "dicom_conversion",
            "format_version": 1,
            "volumes": {"a": {"series": "1.2", "files": "0"}},
            "set_aside": [{"where": "b", "reason": "c", "files": ["d"]}],
        },
        _read_record,
    ),
    "index": (
        "index_0123.json",
        {**HEAD, "settings": {"layout": [1, 2, 3]}, "row_shape": [1], "dtype": "float16", "cases": {"a": "0"}},
        lambda path: read_index(path.parent, "0123"),
    ),
    "benchmark": ("benchmark.json", benchmark, Benchmark.load),
    "demo": (
        "drawn.json",
        {"seed": 0, "pool": ["a"], "test": ["b"], "variants": {"a": "ordinary", "b": "lateral"}},
        lambda path: read_as(path, Drawn, advice="delete it"),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_readers(tmp_path, faults, name):
    file, content, read = READERS[name]
    path = tmp_path / file
    if callable(content):
        content(path)
        content = json.loads(path.read_text())
    for words, changed in mutations(content):
        path.write_text(json.dumps(changed))
        _returns_or_says(read, path, words)
        faults.note("bad input", f"reader of {name}", "")


def _returns_or_says(read, path, words):
    try:
        read(path)
    except UserError as error:
        assert str(path) in str(error) and len(str(error).replace(str(path), "")) < 300, (words, str(error))
    except Exception as error:
        raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error


@pytest.mark.filterwarnings("ignore")
def test_plans_for_hssl(inside):
    """The network is built too: what nnU-Net cannot use is one sentence."""
    path = inside.preprocessed / TARGET / "nnUNetPlans.json"

    def build(_):
        plans = TargetPlans.load(TARGET, configuration_name="2d")
        plans.build_network(1)
        assert plans.identity and plans.patch_size and plans.configuration.batch_size

    for words, content in list(mutations(json.loads(path.read_text()), others=(None, -1, "text", [], {})))[::2]:
        path.write_text(json.dumps(content))
        _returns_or_says(build, path, words)


def test_checkpoints(inside, tmp_path):
    content = torch.load(inside.encoder(), weights_only=True)
    weights = content.pop("weights")
    path = tmp_path / "checkpoint.pth"
    for words, changed in list(mutations(content, others=(None, -1, "text", [], {})))[::7]:
        torch.save({**changed, "weights": weights} if isinstance(changed, dict) else changed, path)
        _returns_or_says(lambda file: load_encoder(file, device="cpu"), path, words)
    first = next(iter(weights))
    for other in (None, [], {}, {**weights, first: 1}, {**weights, first: weights[first][:1]}):
        torch.save({**content, "weights": other}, path)
        _returns_or_says(lambda file: load_encoder(file, device="cpu"), path, other)
