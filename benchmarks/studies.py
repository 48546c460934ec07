"""The studies of evidence.py, made from the real image packs, and their images."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from packs import pack_folder, split_by_patient, write_domain

from nnunetv2_xssr.benchmark.small_cases import SmallCases, count_labels, read_small_cases
from nnunetv2_xssr.benchmark.small_judge import fast_identity
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import Views, prepare_views
from nnunetv2_xssr.records.files import atomic, read_json

TUNING, CONFIRMING, FRESH, UNSEEN = "tuning", "confirming", "fresh", "unseen"
ALL = None  # cases


@dataclass(frozen=True)
class Study:
    """A source and a target from a pack.

    Attributes
    ----------
    half : {"tuning", "confirming", "fresh", "unseen"}
        Fixed before anything was run; the fresh ones came later, for the seventh rule of docs/evidence.md, and those of
        unseen sources for the ninth.
    pack, source : str
    target : dict
        How many cases of every domain; None for all.
    pool : int or None
        Cases of the pool, drawn after the test set was held out; None for all.
    """

    half: str
    pack: str
    source: str
    target: dict[str, int | None]
    pool: int | None = ALL

    @property
    def name(self) -> str:
        parts = [domain if n is ALL else f"{n} {domain}" for domain, n in self.target.items()]
        return f"{self.pack} {self.source} -> {', '.join(parts)}" + (f", pool of {self.pool}" if self.pool else "")

    @property
    def mixed(self) -> bool:
        return len(self.target) > 1


THREE_KINDS: dict[str, int | None] = {"fluo360": ALL, "fluo696": ALL, "histology": ALL}
STUDIES = [
    Study(TUNING, "CXRLung", "hannover", {"guangzhou": ALL}),
    Study(TUNING, "CXRLung", "hannover", {"guangzhou": ALL}, pool=120),
    Study(TUNING, "CXRLung", "guangzhou", {"hannover": ALL}),
    Study(TUNING, "NucleiDSB", "fluo256", {"fluo696": ALL}),
    Study(TUNING, "NucleiDSB", "fluo256", THREE_KINDS),
    Study(TUNING, "NucleiDSB", "fluo256", THREE_KINDS, pool=40),
    Study(TUNING, "NucleiDSB", "fluo256", {"histology": 107, "fluo360": 20, "fluo696": 7}),  # 80/15/5
    Study(TUNING, "Hippocampus3D", "range8bit", {"standard": ALL}),
    Study(CONFIRMING, "CXRLung", "hannover", {"guangzhou": ALL}, pool=40),
    Study(CONFIRMING, "CXRLung", "hannover", {"guangzhou": ALL}, pool=400),
    Study(CONFIRMING, "NucleiDSB", "fluo256", {"histology": ALL}),
    Study(CONFIRMING, "NucleiDSB", "fluo256", {"fluo360": ALL}),
    Study(CONFIRMING, "NucleiDSB", "histology", {"fluo256": 90, "fluo360": 90, "fluo696": 90}),  # 1/1/1
    Study(CONFIRMING, "NucleiDSB", "fluo256", THREE_KINDS, pool=120),
    Study(CONFIRMING, "NucleiDSB", "fluo256", {"fluo696": 80, "fluo360": 15, "histology": 5}),  # 80/15/5
    Study(CONFIRMING, "Hippocampus3D", "standard", {"range8bit": ALL}),
    Study(FRESH, "NucleiDSB", "fluo256", {"histology": 60, "fluo360": 60}),
    Study(FRESH, "NucleiDSB", "fluo256", {"fluo696": ALL, "histology": ALL}),
    Study(FRESH, "NucleiDSB", "histology", {"fluo256": ALL, "fluo696": ALL}),
    Study(FRESH, "NucleiDSB", "histology", {"fluo256": 100, "fluo360": 25, "fluo696": 25}),
    Study(FRESH, "NucleiDSB", "histology", {"fluo360": ALL, "fluo696": 45}),
    Study(UNSEEN, "NucleiDSB", "fluo360", {"fluo256": ALL, "histology": ALL}),
    Study(UNSEEN, "NucleiDSB", "fluo360", {"fluo256": 90, "fluo696": 30, "histology": 30}),
    Study(UNSEEN, "NucleiDSB", "fluo696", {"fluo256": 60, "fluo360": 60, "histology": 60}),
    Study(UNSEEN, "NucleiDSB", "fluo696", {"fluo360": ALL, "histology": ALL}),
    Study(UNSEEN, "NucleiDSB", "fluo360", {"histology": ALL}),
    Study(UNSEEN, "NucleiDSB", "fluo696", {"fluo256": ALL}),
]


def use_folder(work: Path) -> None:
    """Keep everything in this folder."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(work / variable)


@cache
def source_views(pack: str, source: str, work: Path) -> Views:
    """The unlabelled images of a source."""
    number = 500 + sorted({(study.pack, study.source) for study in STUDIES}).index((pack, source))
    name = f"Dataset{number}_{pack}_{source}"
    extra = "imagesUnlabelled" if (pack, source) == ("CXRLung", "hannover") else None
    write_domain(pack, [source], work / "nnUNet_raw" / name, labelled=False, extra=extra)
    pool = dataset_pool(name)
    return prepare_views(pool, look=common_look([pool], dim=2))


class Target:
    """The labelled images of a study, whatever the size of its pool: test cases, and what judges them."""

    def __init__(self, pack: str, domains: tuple[tuple[str, int | None], ...], work: Path):
        known = sorted({(study.pack, tuple(study.target.items())) for study in STUDIES}, key=str)
        number = 600 + known.index((pack, domains))
        name = f"Dataset{number}_{pack}_{'_'.join(domain for domain, _ in domains)}"
        only = sampled(pack, dict(domains))
        write_domain(pack, list(dict(domains)), work / "nnUNet_raw" / name, labelled=True, only=only)
        self.images = dataset_pool(name)
        self.pool, test = split_by_patient(pack, self.images.identifiers)
        self.test = tuple(test)
        self.identity = fast_identity(self.images, self.test)
        self.kept = work / "small" / f"{name}_{self.identity[:16]}.npz"

    def views(self, source: Views) -> Views:
        """At the scale of a source, as nnUNetv2_xssr_select sees them."""
        return prepare_views(self.images, look=common_look([source.pool], dim=2))

    def small_cases(self) -> SmallCases:
        """Read once, and kept."""
        if not self.kept.is_file():
            small = read_small_cases(self.images)
            with atomic(self.kept) as temporary:
                np.savez(temporary, images=small.images, labels=small.labels)
        with np.load(self.kept) as arrays:
            return SmallCases(
                identifiers=self.images.identifiers,
                images=arrays["images"],
                labels=arrays["labels"],
                n_labels=count_labels(self.images.dataset_json),
            )


def sampled(pack: str, target: dict[str, int | None]) -> list[str]:
    """The cases of a target: as many of every domain as it says, drawn at random."""
    domains = read_json(pack_folder(pack) / "dataset.json")["domains"]
    cases = []
    for domain, n in target.items():
        of_domain = sorted(case for case, name in domains.items() if name == domain)
        order = np.random.default_rng(0).permutation(len(of_domain))
        cases += [of_domain[i] for i in order[:n]]
    return sorted(cases)


@cache
def target_of(pack: str, domains: tuple[tuple[str, int | None], ...], work: Path) -> Target:
    """The target of a study, which several studies may share."""
    return Target(pack, domains, work)
