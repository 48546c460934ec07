"""The arms of a benchmark: what every strategy picks by every encoder, random draws, and the whole pool."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Len

from nnunetv2_xssr.encoders.registry import DEFAULT
from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.images.channels import common_channels, with_channels
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import Views, prepare_views
from nnunetv2_xssr.pipeline.embed import embed_pools
from nnunetv2_xssr.pipeline.read import Seeing, read_pools
from nnunetv2_xssr.pretrain.engine import FINAL
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import OURS, Count, FileName
from nnunetv2_xssr.selection import STRATEGIES, select

RANDOM, WHOLE_POOL = "random", "whole pool"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to choose training cases.

    Attributes
    ----------
    strategy : str
        Its name, ``"random"`` or ``"whole pool"``.
    budget : int
        Cases.
    number : int
        Of the random draw, or the seed of the encoder.
    cases : list of str
    """

    __pydantic_config__ = OURS

    strategy: str
    budget: Count
    number: Count
    cases: Annotated[list[FileName], Len(1)]


@dataclass(frozen=True, kw_only=True)
class Features:
    """What cases are compared by.

    Attributes
    ----------
    pool : array of shape (n, d)
        A row per case of the pool, in its order.
    source : array of shape (m, d) or None
    components : int or None
    widths : sequence of int or None
        See `nnunetv2_xssr.selection.select`.
    """

    pool: np.ndarray
    source: np.ndarray | None
    components: int | None
    widths: Sequence[int] | None = None


def check_strategies(strategies: Sequence[str]) -> None:
    """Raise `UserError` if one is none, is random, which is always there, or is named twice."""
    for name in strategies:
        if name not in STRATEGIES or name == RANDOM:
            raise one_of("--strategies", [known for known in STRATEGIES if known != RANDOM], name)
        if strategies.count(name) > 1:
            raise UserError(f"--strategies names {name} {strategies.count(name)} times; name it once")


def whole_pool(pool: Sequence[str]) -> Arm:
    """The ceiling: all cases of the pool."""
    return Arm(strategy=WHOLE_POOL, budget=len(pool), number=0, cases=list(pool))


def random_arms(pool: Sequence[str], *, budgets: Sequence[int], draws: int) -> list[Arm]:
    """Draws of every budget: the first cases of one random order per draw."""
    arms = []
    for number in range(draws):
        order = np.random.default_rng(number).permutation(len(pool))
        arms += [
            Arm(strategy=RANDOM, budget=k, number=number, cases=sorted(pool[i] for i in order[:k])) for k in budgets
        ]
    return arms


def selected_arms(
    pool: Sequence[str],
    features: Features,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    number: int,
) -> list[Arm]:
    """What strategies pick for every budget.

    Parameters
    ----------
    pool : sequence of str
        The case of every row of the features.
    features : Features
    strategies : sequence of str
    budgets : sequence of int
    number : int
        The seed of the encoder, and of strategies that draw random numbers.
    """
    arms = []
    for name in strategies:
        for k in budgets:
            chosen = select(
                features.pool,
                budget=k,
                source=features.source,
                seed=number,
                strategy=name,
                components=features.components,
                widths=features.widths,
            )
            cases = sorted(pool[i] for i in chosen.picks)
            arms.append(Arm(strategy=name, budget=k, number=number, cases=cases))
    return arms


def encoder_file(folder: Path, seed: int) -> Path:
    """Where the encoder of a seed lies."""
    return folder / f"seed_{seed}" / FINAL


def embedded_pools(
    target: ImagePool,
    sources: Sequence[ImagePool],
    *,
    pool: Sequence[str],
    seeds: int,
    folder: Path,
    device: str,
    encoder: str = DEFAULT,
    weights: Path | None = None,
) -> Iterator[Features]:
    """The features of the pool's cases by the encoder of every seed, which is pretrained where it is missing.

    The encoder learns from the sources, or from the pool where there are none: never from test cases.

    Parameters
    ----------
    target : ImagePool
        With its test cases.
    sources : sequence of ImagePool
    pool : sequence of str
        The cases to choose from.
    seeds : int
    folder : Path
        Of the encoders.
    device : {"cpu", "cuda", "mps"}
    encoder : str
        See `nnunetv2_xssr.encoders.registry`; the default one is pretrained here, with every seed.
    weights : Path or None
        Of a timm model.
    """
    usable = target.only(pool)
    for seed in range(seeds):
        seeing = Seeing(encoder=encoder, encoder_weights=weights)
        if encoder == DEFAULT:
            file = encoder_file(folder, seed)
            if not file.is_file():
                logger.info("pretraining the encoder of seed %d, of %d encoders", seed, seeds)
            # One that is there is taken if it learned from these images: from others it may have seen test cases.
            views = _views(usable, sources)
            pretrain(views, settings=Settings(seed=seed), fabric=start(device), resume=True, folder=file.parent)
            seeing = Seeing(encoder=file)
        read = read_pools(usable, sources, seeing=seeing, unit="case", skip_broken=False, device=device)
        embedded = embed_pools(read, embedding=seeing.embedding, unit="case", seed=seed)
        row = {case: i for i, case in enumerate(embedded.identifiers)}
        yield Features(
            pool=embedded.pool[[row[case] for case in pool]],
            source=embedded.source,
            components=embedded.provenance["components"],
            widths=embedded.provenance["widths"],
        )


def _views(target: ImagePool, sources: Sequence[ImagePool]) -> list[Views]:
    channels, learn_from = common_channels([target, *sources]), sources or [target]
    look = common_look(with_channels(learn_from, channels), dim=2)
    return [prepare_views(pool, channel_names=channels, look=look) for pool in learn_from]
