"""What holds for every encoder, whatever it is made of."""

import json
import shutil
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from kinds import KINDS, ready, spell
from making import SOURCE, TARGET, picture, succeeds, write_picture

from nnunetv2_xssr.commands import report, select
from nnunetv2_xssr.encoders.embedding import embed, embedder, kept_layout
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.records.workspace import Workspace

each_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass
class Counting:
    """An encoder that counts the cases it embeds, and stops at one if it is told to."""

    encoder: Any
    stop_at: int | None = None
    cases: int = 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def for_pool(self, views):
        embed_case = self.encoder.for_pool(views)

        def counted(case):
            if self.cases == self.stop_at:
                raise KeyboardInterrupt
            self.cases += 1
            return embed_case(case)

        return counted


def views_of(name):
    return prepare_views(open_pool(name))


@pytest.fixture
def made(workspace, monkeypatch):
    """Makes the encoder of a kind from the source."""
    return lambda kind, seed=0: ready(kind, workspace, monkeypatch, sources=[views_of(SOURCE)], seed=seed)


def rows_of(encoder, views):
    embed_case = embedder(encoder, views)
    return [embed_case(case) for case in views.rows]


@each_kind
def test_features_are_finite_differ_and_are_the_same_again(made, kind):
    views, encoder = views_of(TARGET), made(kind)
    rows, again = rows_of(encoder, views), rows_of(made(kind), views)
    assert all(row.shape == (1, kept_layout(encoder, 1).size) and row.dtype == np.float32 for row in rows)
    assert all(np.isfinite(row).all() for row in rows)
    assert len({row.tobytes() for row in rows}) == len(rows)
    assert [row.tobytes() for row in rows] == [row.tobytes() for row in again]
    assert made(kind).identity == encoder.identity


@each_kind
def test_features_of_a_case_depend_on_no_other_case_and_no_other_view(made, kind):
    views, encoder = views_of(TARGET), made(kind)
    rows = rows_of(encoder, views)
    some = replace(views, pool=views.pool.only(["t_03"]), rows=views.rows[3:4], hashes={"t_03": views.hashes["t_03"]})
    assert rows_of(encoder, some)[0].tobytes() == rows[3].tobytes()
    pair = np.concatenate([views.rows[3], views.rows[4]])
    np.testing.assert_allclose(embedder(encoder, views)(pair), np.concatenate(rows[3:5]), rtol=1e-4, atol=1e-4)


@each_kind
def test_features_do_not_depend_on_the_number_of_threads(made, kind):
    views, threads = views_of(TARGET), torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            encoder = made(kind)
            found.append((encoder.identity, np.stack(rows_of(encoder, views))))
    finally:
        torch.set_num_threads(threads)
    (identity, one), (other_identity, two) = found
    assert identity == other_identity
    by_default = slice(encoder.layout.last, None)  # the last stage is for --embedding gap only
    assert one[..., by_default].tobytes() == two[..., by_default].tobytes()
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@each_kind
def test_an_interrupted_embedding_is_resumed_and_a_whole_one_is_kept(made, kind):
    views, encoder = views_of(TARGET), made(kind)
    shutil.rmtree(Workspace(TARGET).caches / "embeddings")
    stopped = Counting(encoder, stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        embed(stopped, views)
    resumed = Counting(encoder)
    store = embed(resumed, views)
    assert (stopped.cases, resumed.cases) == (4, 6)
    assert [row.tobytes() for row in store.rows] == [row.tobytes() for row in rows_of(encoder, views)]
    whole = Counting(made(kind))
    assert embed(whole, views).key == store.key and whole.cases == 0


@each_kind
def test_a_changed_image_is_embedded_again_and_no_other(made, kind, workspace):
    encoder = made(kind)
    embed(encoder, views_of(TARGET))
    write_picture(workspace.images() / "t_03_0000.png", picture(998))
    counted = Counting(encoder)
    embed(counted, views_of(TARGET))
    assert counted.cases == 1


def test_no_two_encoders_share_a_cache(made):
    views = views_of(TARGET)
    keys = {kind: embed(made(kind), views).key for kind in KINDS}
    assert keys.pop("FILE") == keys["mae"]  # the same weights
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("kind", ["untrained", "dictionary"])
def test_the_seed_decides_what_is_random(made, kind):
    assert made(kind, seed=0).identity != made(kind, seed=1).identity


@each_kind
def test_select_records_the_encoder(workspace, monkeypatch, capsys, kind):
    before = workspace.encoder().read_bytes()
    spelling, weights = spell(kind, workspace, monkeypatch)
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--encoder", spelling]
    succeeds(capsys, select.main, [*argv, *(["--encoder_weights", weights] if weights else [])])
    record = workspace.selection()
    told = record["encoder"]
    assert told["name"] == (spelling if kind != "FILE" else "mae")
    assert told["identity"] == record["provenance"]["encoder"] and len(told["identity"]) == 64
    assert (told["weights"] is None) == (kind == "intensity")
    assert told["transform"] and told["pooling"] == record["provenance"]["embedding"]
    assert workspace.encoder().read_bytes() == before
    assert len(json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))["selections"][0]["picks"]) == 3
