"""nnUNetv2_xssr_verify: what has changed since a selection was made."""

import json

import numpy as np
import pytest
import tifffile
import torch
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_dataset_json, write_picture

from nnunetv2_xssr import verify_selection
from nnunetv2_xssr.commands import collect, pretrain, select, verify
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.records.workspace import Workspace

PARTS = [
    *("files of one selection", "versions", "images", "views", "features", "encoder", "options"),
    *("split", "hand-overs"),
    "collected labels",
]


def flip(file, at=-5):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def rows(kind, dataset=TARGET):
    (file,) = (Workspace(dataset).caches / kind).glob("rows_*.npy")
    return file


def other_row(kind):
    file = rows(kind)
    store, _ = CaseRows.load(file.parent, file.stem.removeprefix("rows_"))
    store.write(0, store.rows[0] + 1)


def edit_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def swap_encoder(again):
    assert pretrain.main(["-s", "1", "--seed", "5", "-device", "cpu"]) == 0


def pick(again):
    return again.selection()["selections"][0]["picks"][0]["case"]


def handover_image(again):
    return Workspace(TARGET).handover(1) / "images" / f"{pick(again)}_0000.png"


def learn_on_other_threads(again):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 64)
        swap_encoder(again)


CHANGES = {
    "image added": (lambda a: write_picture(a.images() / "t_10_0000.png", picture(9)), "images", "were added: t_10"),
    "image gone": (lambda a: (a.images() / "t_03_0000.png").unlink(), "images", f"1 cases of {TARGET} are gone: t_03"),
    "image replaced": (
        lambda a: write_picture(a.images() / "t_03_0000.png", picture(999)),
        "images",
        f"1 cases of {TARGET} have other images: t_03",
    ),
    "image of the source replaced": (
        lambda a: write_picture(a.images(SOURCE) / "s_01_0000.png", picture(999)),
        "images",
        f"1 cases of {SOURCE} have other images: s_01",
    ),
    "views flipped": (lambda a: flip(rows("views"), 200), "views", "1 rows do not fit their checksums (t_00)"),
    "source's views flipped": (lambda a: flip(rows("views", SOURCE), 200), "views", "their checksums (s_00)"),
    "facts flipped": (lambda a: flip(rows("facts"), 200), "views", "their checksums (t_00)"),
    "features flipped": (lambda a: flip(rows("embeddings"), 200), "features", "their checksums (t_00)"),
    "views of other images": (lambda a: other_row("views"), "views", f"cached views of {TARGET}"),
    "other features": (lambda a: other_row("embeddings"), "features", "are not those that were compared"),
    "views gone": (lambda a: rows("views").unlink(), "views", "is cut off or gone"),
    "encoder swapped": (swap_encoder, "encoder", "is another one"),
    "encoder of other threads": (learn_on_other_threads, "encoder", "this one on {'device': 'cpu', 'threads': 64"),
    "encoder gone": (lambda a: a.encoder().unlink(), "encoder", "is gone"),
    "encoder flipped": (lambda a: flip(a.encoder(), 40000), "encoder", "does not fit its checksum"),
    "encoder cut off": (lambda a: a.encoder().write_bytes(b"PK"), "encoder", "is cut off"),
    "split edited": (
        lambda a: a.split().write_text(json.dumps([{"train": ["t_00"], "val": ["t_01"]}])),
        "split",
        "splits_xssr.json was changed",
    ),
    "split gone": (
        lambda a: edit_json(Workspace(TARGET).manifest, lambda manifest: manifest.update(split="0" * 64)),
        "split",
        "does not exist",
    ),
    "record edited": (
        lambda a: edit_json(a.record(), lambda record: record["selections"][0]["picks"].pop()),
        "files of one selection",
        "or a file was changed",
    ),
    "another version": (
        lambda a: edit_json(a.record(), lambda record: record["versions"].update(numpy="1.0")),
        "versions",
        "numpy was 1.0, is ",
    ),
    "manifest of an older version": (
        lambda a: Workspace(TARGET).manifest.unlink(),
        "files of one selection",
        "is missing",
    ),
    "hand-over edited": (lambda a: flip(handover_image(a)), "hand-overs", "not those of the pool"),
    "hand-over lacks an image": (lambda a: handover_image(a).unlink(), "hand-overs", "not those of the pool"),
    "hand-over gone": (
        lambda a: Workspace(TARGET).handover(1).rename(a.root / "elsewhere"),
        "hand-overs",
        "round_01 is gone",
    ),
}


def test_untouched_selection_is_whole(again, capsys):
    out = succeeds(capsys, verify.main, ["-d", "2"])
    assert f"as it was: {', '.join(PARTS)}" in out and "changed:" not in out
    assert verify_selection(TARGET).whole == PARTS


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed(again, capsys, change):
    deed, part, words = CHANGES[change]
    deed(again)
    capsys.readouterr()
    assert verify.main(["-d", "2", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert part not in result["whole"] and any(words in sentence for sentence in result["changed"]), result
    assert verify.main(["-d", "2"]) == 1
    assert all(f"changed: {sentence}" in capsys.readouterr().out for sentence in result["changed"][:1])


def test_labels_changed_since_they_were_collected(again, capsys):
    returned = Workspace(TARGET).handover(1) / "labels"
    for one in again.selection()["selections"][0]["picks"]:
        write_picture(returned / f"{one['case']}.png", np.eye(40, 48, dtype=np.uint8))
    succeeds(capsys, collect.main, ["-d", "2"])
    assert verify_selection(TARGET).whole == PARTS
    for folder in (Workspace(TARGET).labels, returned):
        write_picture(folder / f"{pick(again)}.png", np.ones((40, 48), np.uint8))
    (sentence,) = verify_selection(TARGET).changed
    assert "labels in" in sentence and f"changed since they were collected: {pick(again)}" in sentence
    succeeds(capsys, collect.main, ["-d", "2"])
    assert verify_selection(TARGET).whole == PARTS  # they are collected as they are now
    (Workspace(TARGET).labels / f"{pick(again)}.png").unlink()
    assert any("are gone" in sentence for sentence in verify_selection(TARGET).changed)


def test_features_made_elsewhere(again, capsys):
    file = again.root / "given.npz"
    features = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    np.savez(file, cases=[f"t_{i:02d}" for i in range(10)], features=features)
    argv = ["-d", "2", "--name", "given", "--embeddings", file, "-b", "3", "-device", "cpu"]
    succeeds(capsys, select.main, argv)
    # No image was read, so that nothing is known of any.
    assert verify_selection(TARGET, name="given").whole == [part for part in PARTS if part not in ("images", "views")]
    write_picture(again.images() / "t_09_0000.png", picture(999))
    printed = succeeds(capsys, verify.main, ["-d", "2", "--name", "given"])
    assert "as it was: files of one selection, versions, features," in printed
    np.savez(file, cases=[f"t_{i:02d}" for i in range(10)], features=features + 1)
    (sentence,) = verify_selection(TARGET, name="given").changed
    assert f"{file} holds other features" in sentence


@pytest.mark.parametrize("argv", [["-d", "77"], ["-d", "1"], ["-d", "2", "--name", "other"]])
def test_no_selection(again, capsys, argv):
    fails(capsys, verify.main, argv)


def test_the_record_says_on_what_the_encoder_learned(again):
    found = again.selection()["encoder"]["learned_on"]
    assert found == {"device": "cpu", "threads": torch.get_num_threads(), "processes": 1, "torch": torch.__version__}


def test_spacing_beside_a_stack_belongs_to_its_image(empty, capsys):
    folder = empty.images()
    folder.mkdir(parents=True)
    for i in range(3):
        tifffile.imwrite(folder / f"s{i}_0000.tif", volume(i)[0])
        (folder / f"s{i}.json").write_text('{"spacing": [3, 1, 1]}')
    write_dataset_json(empty.raw / TARGET, ".tif", {"0": "fluo"}, numTraining=0, dataset={})
    argv = ["-d", "2", "-b", "2", "-device", "cpu", "--encoder", "untrained"]
    succeeds(capsys, select.main, argv)
    assert verify_selection(TARGET).changed == []
    (folder / "s1.json").write_text('{"spacing": [0.3, 1, 1]}')
    assert f"1 cases of {TARGET} have other images: s1" in verify_selection(TARGET).changed
    fails(capsys, select.main, argv, "made with other", "--overwrite")
