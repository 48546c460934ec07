"""What a fold is trained on stays what it is from its first epoch to its last validation, whatever select writes."""

import json
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from making import write_picture
from tiny_training import STUDY, ends_in_a_sentence, make_trainer
from torch import distributed

from nnunetv2_xssr.records.split import read_split, write_split

TRAIN, VAL = ["p_00", "p_01"], ["p_02"]
SPLIT = [{"train": TRAIN, "val": VAL}, {"train": ["p_02"], "val": TRAIN}]
OTHER = {"train": ["p_01", "p_02"], "val": ["p_00"]}


@pytest.fixture
def split(study, split_file):
    write_split(split_file, SPLIT)
    return split_file


@pytest.fixture
def trained(study, split, tiny):
    """A trainer whose training of fold 0 is over."""
    trainer = make_trainer(study, 0, tiny)
    trainer.run_training()
    return trainer


def checkpoint_of(trainer, name="final"):
    return str(Path(trainer.output_folder) / f"checkpoint_{name}.pth")


def taken_up(study, trainer, fold=0):
    """A later run with --c or --val, which nnU-Net both begins like this."""
    later = make_trainer(study, fold, type(trainer))
    later.load_checkpoint(checkpoint_of(trainer))
    return later


def test_training_freezes_its_fold(trained):
    assert json.loads((Path(trained.output_folder) / "xssr_fold.json").read_text()) == {
        "kind": "trained fold",
        "format_version": 1,
        "selection": "xssr",
        "train": TRAIN,
        "val": VAL,
    }


def test_fold_all_is_frozen_too(study, split, tiny, capsys):
    trainer = make_trainer(study, "all", tiny)
    trainer.run_training()
    everything = sorted(TRAIN + VAL)
    assert taken_up(study, trainer, "all").do_split() == (everything, everything)
    write_split(split, [*SPLIT, {"train": ["p_05"], "val": VAL}])
    ends_in_a_sentence(capsys, lambda: taken_up(study, trainer, "all"), "fold all of", "p_05 came into training")


@pytest.mark.parametrize(
    ("fold", "parts"),
    [
        ({"train": ["p_00", "p_03"], "val": VAL}, ["p_03 came into training, p_01 left training"]),
        ({"train": [*TRAIN, "p_02"], "val": ["p_03"]}, ["p_02 came into training", "p_02 left validation"]),
        ({"train": TRAIN, "val": ["p_02", "p_04"]}, ["p_04 came into validation"]),
    ],
)
def test_another_split_is_refused_for_c_and_val(study, split, trained, capsys, fold, parts):
    write_split(split, [fold, SPLIT[1]])
    ways_out = ["repeat that selection", "without --c", "--name"]
    ends_in_a_sentence(capsys, lambda: taken_up(study, trained), "fold 0 of", split, *parts, *ways_out)


def test_fold_that_the_split_has_lost_is_refused(study, split, tiny, capsys):
    trainer = make_trainer(study, 1, tiny)
    trainer.run_training()
    write_split(split, SPLIT[:1])
    ends_in_a_sentence(capsys, lambda: taken_up(study, trainer, 1), "fold must be one of 0 or all", split)


@pytest.mark.parametrize("same", [SPLIT, [{"train": TRAIN[::-1], "val": VAL}, OTHER], None])
def test_training_goes_on_where_the_fold_is_the_same_or_the_split_is_gone(study, split, trained, same, capsys):
    split.unlink()
    if same is not None:
        write_split(split, same)
    later = taken_up(study, trained)
    assert later.do_split() == (TRAIN, VAL)
    assert "xssr_fold.json: 2 for training, 1 for validation" in capsys.readouterr().out
    later.run_training()
    assert later.do_split() == (TRAIN, VAL)


def test_new_training_needs_a_split_also_where_one_was_trained(study, split, trained, capsys):
    split.unlink()
    frozen = Path(trained.output_folder) / "xssr_fold.json"
    before = frozen.read_bytes()
    ends_in_a_sentence(capsys, make_trainer(study, 0, type(trained)).run_training, "there is no split", split)
    assert frozen.read_bytes() == before


def test_split_that_is_replaced_during_the_training(study, split, tiny):
    trainer = make_trainer(study, 0, tiny)
    trainer.on_train_start()
    write_split(split, [OTHER])
    assert trainer.do_split() == (TRAIN, VAL)  # which nnU-Net asks again for the final validation
    trainer.save_checkpoint(checkpoint_of(trainer, "best"))
    trainer.load_checkpoint(checkpoint_of(trainer, "best"))  # as --val_best does after the training
    assert trainer.do_split() == (TRAIN, VAL)


def test_new_training_takes_the_split_of_now(study, split, trained):
    write_split(split, [OTHER])
    anew = make_trainer(study, 0, type(trained))
    anew.run_training()
    assert anew.do_split() == taken_up(study, anew).do_split() == (OTHER["train"], OTHER["val"])


def test_checkpoint_of_the_training_before_the_last_is_refused(study, split, trained, capsys):
    """As after a crash between a new start and its first checkpoint."""
    write_split(split, [OTHER])
    make_trainer(study, 0, type(trained)).on_train_start()
    parts = (checkpoint_of(trained), "was not trained on the cases in xssr_fold.json", "without --c")
    ends_in_a_sentence(capsys, lambda: taken_up(study, trained), *parts)


def test_checkpoint_of_an_older_version_is_refused(study, split, trained, capsys):
    frozen, path = Path(trained.output_folder) / "xssr_fold.json", checkpoint_of(trained)
    checkpoint = torch.load(path, weights_only=False)
    for origin in ({"trainer": "XSSRTrainer", "version": "0.1.0", "split_sha256": "0"}, None):
        older = {key: value for key, value in checkpoint.items() if key != "nnunetv2_xssr"}
        torch.save(older if origin is None else {**older, "nnunetv2_xssr": origin}, path)
        ends_in_a_sentence(capsys, lambda: taken_up(study, trained), path, "was not trained on", "without --c")
    frozen.unlink()
    ends_in_a_sentence(capsys, lambda: taken_up(study, trained), path, "nothing tells", "without --c")


def test_pretrained_weights_are_no_training_to_go_on_with(study, split, trained, tiny):
    from nnunetv2.run.run_training import maybe_load_checkpoint

    write_split(split, [OTHER])
    other = make_trainer(study, 0, type(f"{tiny.__name__}Other", (tiny,), {}))
    maybe_load_checkpoint(other, False, False, checkpoint_of(trained))
    other.run_training()
    assert other.do_split() == (OTHER["train"], OTHER["val"])


def test_predictions_of_an_earlier_training_are_not_measured(study, split, trained, monkeypatch, capsys):
    """nnU-Net measures all files in the folder, so those of cases that are trained on now."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = Path(trained.output_folder) / "validation"
    for case in (*TRAIN, *VAL):
        write_picture(folder / f"{case}.png", torch.zeros(48, 48, dtype=torch.uint8).numpy())
        (folder / f"{case}.npz").touch()
    seen = []
    monkeypatch.setattr(
        nnUNetTrainer, "perform_actual_validation", lambda *_: seen.extend(sorted(p.name for p in folder.iterdir()))
    )
    trained.perform_actual_validation(False)
    assert seen == ["p_02.npz", "p_02.png"]
    assert "p_00.png, which an earlier training of this fold predicted" in capsys.readouterr().out


def _rank(rank, folder, study, cls):
    """One of two processes of a training, the second of which meets a split that has been replaced meanwhile."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    nnUNetTrainer.on_train_start = lambda self: None  # which would need two GPUs
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    if rank == 1:
        distributed.barrier()
        write_split(study.split(STUDY), [OTHER])
    trainer = make_trainer(study, 0, cls)
    if rank == 0:
        distributed.barrier()
    trainer.on_train_start()
    (folder / f"{rank}.json").write_text(json.dumps(trainer.do_split()))


def test_all_processes_of_a_training_have_one_fold(study, split, tiny, tmp_path):
    context = get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, tmp_path, study, tiny)) for rank in range(2)]
    for process in ranks:
        process.start()
    for rank, process in enumerate(ranks):
        process.join(120)
        assert process.exitcode == 0
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [TRAIN, VAL]
    assert read_split(split) == [OTHER]
