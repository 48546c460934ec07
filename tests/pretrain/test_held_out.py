"""Which images a pretraining does not learn from: whole patients, at random, a tenth of enough."""

import numpy as np
import pytest
from making import picture, write_dataset_json, write_picture
from plans import pool_of

from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.held_out import held_out
from nnunetv2_xssr.pretrain.hssl.pretrain import _split
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding


@pytest.mark.parametrize(
    ("n_cases", "n_groups", "n_held_out"),
    [
        (1, 1, 0),
        (19, 19, 0),
        (20, 20, 2),
        (21, 21, 3),
        (120, 120, 12),
        (100, 10, 10),
        (60, 20, 6),
        (90, 9, 0),
        (40, 1, 0),
    ],
)
def test_a_tenth_of_the_patients_is_held_out(n_cases, n_groups, n_held_out):
    groups = [f"p{i % n_groups}" for i in range(n_cases)]
    out = held_out(groups, seed=1)
    assert out.sum() == n_held_out and np.array_equal(out, held_out(groups, seed=1))
    assert not {g for g, o in zip(groups, out, strict=True) if o} & {
        g for g, o in zip(groups, out, strict=True) if not o
    }


def test_files_in_order_do_not_decide():
    """Neither the first files nor every tenth are what is held out."""
    groups = [str(i) for i in range(100)]
    drawn = [np.flatnonzero(held_out(groups, seed=seed)) for seed in range(20)]
    assert len({tuple(one) for one in drawn}) == 20
    assert len(set(np.concatenate(drawn).tolist())) > 80
    assert 3 < np.mean([one.mean() / 10 for one in drawn]) < 7


def test_the_pretraining_of_a_u_net_holds_out_patients(tmp_path):
    groups = [f"group {i // 2}" for i in range(40)]
    pool = pool_of(tmp_path, [np.ones((1, 1, 2, 2))] * 40, groups=groups)
    learned, out = _split(pool, seed=0)
    assert (len(learned.files), len(out.files)) == (36, 4)
    assert not set(learned.groups) & set(out.groups) and not set(learned.files) & set(out.files)
    assert list(out.hashes) == [file.stem for file in out.files]


def test_the_pretraining_of_an_encoder_holds_out_patients(empty):
    """Two datasets that number their patients alike: those are different ones."""
    for name in ("Dataset001_A", "Dataset002_B"):
        for i in range(20):
            write_picture(empty.images(name) / f"c_{i:02d}_0000.png", picture(i))
        write_dataset_json(empty.raw / name, groups={f"c_{i:02d}": f"patient {i // 2}" for i in range(20)})
    objective = MaskedAutoencoding([prepare_views(open_pool(str(i))) for i in (1, 2)], seed=0)
    assert len(objective.held_out) == 4
    assert {i // 2 for i in objective.held_out} == {i // 2 for i in objective.held_out if i % 2}
    assert objective.held_out == {i for pair in {i // 2 for i in objective.held_out} for i in (2 * pair, 2 * pair + 1)}
