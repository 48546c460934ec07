"""What a benchmark will do: its settings, checked before any long work, and the record of its arms."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Len

from nnunetv2_xssr.benchmark.arms import (
    RANDOM,
    WHOLE_POOL,
    Arm,
    check_strategies,
    embedded_pools,
    encoder_file,
    random_arms,
    selected_arms,
    whole_pool,
)
from nnunetv2_xssr.benchmark.hold_out import copies_in_both, hold_out, parse_budgets
from nnunetv2_xssr.benchmark.jobs import Job
from nnunetv2_xssr.benchmark.nnunet_judge import check_trainable, nnunet_identity
from nnunetv2_xssr.benchmark.small_cases import count_labels
from nnunetv2_xssr.benchmark.small_judge import fast_identity
from nnunetv2_xssr.encoders.registry import DEFAULT, open_encoder
from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.images.case_table import with_case_table
from nnunetv2_xssr.images.channels import common_channels
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool, open_pools
from nnunetv2_xssr.records.files import write_json
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import OURS, Count, FileName, read_as
from nnunetv2_xssr.records.workspace import check_environment, find_dataset

KIND, FORMAT_VERSION = "benchmark", 1
FAST, NNUNET = "fast", "nnunet"
JUDGES = (NNUNET, FAST)
_ADVICE = "delete it to plan anew"
_MOST = 10_000  # random draws, or seeds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user chose.

    Attributes
    ----------
    target : str
        Full name of the fully labelled dataset.
    sources : list of str
        Names or numbers of datasets, and full paths of folders.
    budgets, strategies : list of str
    draws, seeds, training_seeds : int
        Random draws; encoders, each pretrained with its own seed; trainings of every set of cases.
    judge : {"nnunet", "fast"}
    configuration, trainer, plans_name : str
        Of nnU-Net.
    test : list of str or None
        Test cases; None draws them.
    cases : str or None
        Table with domains and groups.
    encoder : str
        See `nnunetv2_xssr.encoders.registry`.
    encoder_weights : str or None
        File with the weights of a timm model.
    """

    __pydantic_config__ = OURS

    target: FileName
    sources: list[str]
    budgets: list[str]
    strategies: list[str]
    draws: Count
    seeds: Count
    training_seeds: Count
    judge: str
    configuration: str
    trainer: str
    plans_name: str
    test: list[str] | None
    cases: str | None
    encoder: str = DEFAULT
    encoder_weights: str | None = None

    def __post_init__(self):
        if self.judge not in JUDGES:
            raise one_of("--judge", JUDGES, self.judge)
        check_strategies(self.strategies)
        for name, least in (("draws", 2), ("seeds", 1), ("training_seeds", 1)):
            if not least <= getattr(self, name) <= _MOST:
                raise UserError(f"--{name} must be {least} or more, and at most {_MOST}; got {getattr(self, name)}")

    @property
    def network(self) -> dict[str, str]:
        """What nnU-Net is told."""
        return {"configuration": self.configuration, "trainer": self.trainer, "plans_name": self.plans_name}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark whose arms are chosen: the record ``benchmark.json``.

    Attributes
    ----------
    settings : Settings
    judge : str
        Identity of the judge: of the data, the test cases and what trains.
    test : list of str
    domains : list of str
        Of the test cases.
    pool_size : int
    arms : list of Arm
    groups : list of str
        Of the test cases (patients), or the cases themselves; empty in older records.
    """

    __pydantic_config__ = OURS

    settings: Settings
    judge: str
    test: Annotated[list[FileName], Len(1)]
    domains: list[str]
    pool_size: Count
    arms: Annotated[list[Arm], Len(1)]
    groups: list[str] = field(default_factory=list)

    def jobs_of(self, arm: Arm) -> list[Job]:
        """One job per training seed."""
        return [
            Job(judge=self.judge, cases=tuple(arm.cases), seed=seed) for seed in range(self.settings.training_seeds)
        ]

    @property
    def jobs(self) -> list[Job]:
        """The jobs of all arms, each once."""
        return list(dict.fromkeys(job for arm in self.arms for job in self.jobs_of(arm)))

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "Benchmark":
        """Read the record back; a `UserError` says in one sentence what does not fit."""
        found = read_as(path, cls, kind=KIND, version=FORMAT_VERSION, advice=_ADVICE)
        if reason := found._unfit():
            raise UserError(f"{path} {reason}; {_ADVICE}")
        return found

    def _unfit(self) -> str | None:
        """What in the record does not go together; None if all does."""
        settings, budgets = self.settings, {arm.budget for arm in self.arms if arm.strategy == RANDOM}
        units = {RANDOM: settings.draws, **dict.fromkeys(settings.strategies, settings.seeds)}
        found = Counter((arm.strategy, arm.budget) for arm in self.arms)
        wanted = {(name, k): count for name, count in units.items() for k in budgets} | {
            (WHOLE_POOL, self.pool_size): 1
        }
        numbered = {
            (arm.strategy, arm.budget, arm.number) for arm in self.arms if arm.number < units.get(arm.strategy, 1)
        }
        if not budgets or found != wanted or len(numbered) < len(self.arms):
            return "must have one arm for every strategy, budget, and draw or seed"
        if any(len(set(arm.cases)) != arm.budget or set(arm.cases) & set(self.test) for arm in self.arms):
            return "must have arms of as many cases as their budget, none of them a test case"
        if len(self.domains) != len(self.test) or len(self.groups) not in (0, len(self.test)):
            return "must have a domain, and a group or none at all, for every test case"
        return None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A benchmark that was checked and whose arms are not chosen yet.

    Attributes
    ----------
    settings : Settings
    target : ImagePool
        With its test cases.
    sources : list of ImagePool
    pool, test : list of str
        Cases.
    budgets : list of int
        Cases.
    judge : str
        Identity.
    """

    settings: Settings
    target: ImagePool
    sources: list[ImagePool]
    pool: list[str]
    test: list[str]
    budgets: list[int]
    judge: str

    @property
    def most_trainings(self) -> int:
        """How many trainings there are where no two arms choose the same cases."""
        settings = self.settings
        selections = len(settings.strategies) * settings.seeds + settings.draws
        return (selections * len(self.budgets) + 1) * settings.training_seeds

    def missing_encoders(self, folder: Path) -> int:
        """How many encoders must be pretrained first."""
        if self.settings.encoder != DEFAULT:
            return 0
        return sum(not encoder_file(folder, seed).is_file() for seed in range(self.settings.seeds))

    def choose(self, folder: Path, *, device: str) -> Benchmark:
        """Pretrain what is missing in a folder of encoders, embed, select and draw.

        Parameters
        ----------
        folder : Path
        device : {"cpu", "cuda", "mps"}
        """
        settings = self.settings
        arms = [whole_pool(self.pool), *random_arms(self.pool, budgets=self.budgets, draws=settings.draws)]
        found = embedded_pools(
            self.target,
            self.sources,
            pool=self.pool,
            seeds=settings.seeds,
            folder=folder,
            device=device,
            encoder=settings.encoder,
            weights=_weights(settings),
        )
        for seed, features in enumerate(found):
            arms += selected_arms(
                self.pool, features, strategies=settings.strategies, budgets=self.budgets, number=seed
            )
        domain = {case.identifier: case.domain or "" for case in self.target.cases}
        group = {case.identifier: case.group_name for case in self.target.cases}
        return Benchmark(
            settings=settings,
            judge=self.judge,
            test=self.test,
            domains=[domain[case] for case in self.test],
            pool_size=len(self.pool),
            arms=arms,
            groups=[group[case] for case in self.test],
        )


def make_plan(settings: Settings) -> Plan:
    """Check everything that can be checked before images are read.

    Raises
    ------
    UserError
        If settings, target, sources or what nnU-Net needs do not fit.
    """
    check_environment()
    target = dataset_pool(find_dataset(settings.target))
    if settings.cases:
        target = with_case_table(target, Path(settings.cases))
    sources = open_pools(settings.sources, channel_names=target.channel_names)
    if target.name in [source.name for source in sources]:
        raise UserError(f"the source {target.name} is the target itself; leave -s out to learn from the pool alone")
    common_channels([target, *sources])
    if settings.encoder != DEFAULT or settings.encoder_weights:
        learn_from = [pool.name for pool in sources or [target]]
        open_encoder(settings.encoder, weights=_weights(settings), learn_from=learn_from, dim=2, device="cpu")
    pool, test = hold_out(target, test=settings.test)
    if sentence := copies_in_both(target, pool=pool, test=test):
        logger.warning(sentence)
    budgets = parse_budgets(settings.budgets, pool_size=len(pool))
    if settings.judge == FAST:
        count_labels(target.dataset_json)
        identity = fast_identity(target, test)
    else:
        check_trainable(target, **settings.network)
        identity = nnunet_identity(target, test, **settings.network)
    return Plan(
        settings=settings,
        target=target,
        sources=sources,
        pool=pool,
        test=test,
        budgets=budgets,
        judge=identity,
    )


def _weights(settings: Settings) -> Path | None:
    return None if settings.encoder_weights is None else Path(settings.encoder_weights)
