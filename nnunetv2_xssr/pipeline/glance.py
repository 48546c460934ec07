"""A glance at a pool: what the caches hold of it, and how long a few of its cases take. Nothing is written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.encoders.embedding import embedder, kept_layout
from nnunetv2_xssr.encoders.encoder import Encoder
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_facts import CaseFacts
from nnunetv2_xssr.images.case_rows import CaseRows, known_hashes
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pictures import draw_case
from nnunetv2_xssr.images.pools import Case
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, files_read, read_image
from nnunetv2_xssr.images.views import HowSeen, Views
from nnunetv2_xssr.records.files import sha256_files
from nnunetv2_xssr.records.workspace import Workspace

_CASES = 5  # that are looked at, evenly spaced; the first one is not timed, because it also loads libraries


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What a few cases tell of a pool.

    Attributes
    ----------
    seen : HowSeen
    views : Views
        Of these cases, in memory.
    to_read : list of Case
        Those of the pool whose views are not in the caches.
    seconds : float
        That reading a case takes, where several are read side by side.
    """

    seen: HowSeen
    views: Views
    to_read: list[Case]
    seconds: float

    @classmethod
    def at(cls, seen: HowSeen, *, skip_broken: bool) -> "Glance":
        """Look at some cases of a pool.

        Raises
        ------
        BrokenImage
            If one cannot be used, unless ``skip_broken``.
        UserError
            If none can be used.
        """
        views, facts = seen.caches(known_hashes(seen.pool))
        known = CaseRows.written(*views) & CaseRows.written(*facts)
        first, *others = _evenly(seen.pool.cases)
        found = _looked_at(seen, [first], skip_broken=skip_broken)
        began = time.perf_counter()
        found |= _looked_at(seen, others, skip_broken=skip_broken)
        seconds = (time.perf_counter() - began) / max(1, len(others))
        if not found:
            raise UserError(f"none of {1 + len(others)} cases of {seen.pool.name} that were tried can be used")
        return cls(
            seen=seen,
            views=Views(
                pool=seen.pool.only(found),
                rows=np.stack([rows for rows, _ in found.values()]).astype(np.float16),
                hashes=dict.fromkeys(found, ""),
                channel_names=seen.channel_names,
                settings=seen.settings,
                cache="",
                facts={case: facts for case, (_, facts) in found.items()},
                facts_cache="",
            ),
            to_read=[case for case in seen.pool.cases if case.identifier not in known],
            seconds=seconds,
        )

    def embed(self, encoder: Encoder) -> tuple[np.ndarray, float]:
        """The features of the views, shape (cases, views, size), and the seconds that embedding a case takes."""
        embed_case = embedder(encoder, self.views)
        embed_case(self.views.rows[0])
        began = time.perf_counter()
        rows = np.stack([embed_case(case) for case in self.views.rows])
        return rows, (time.perf_counter() - began) / len(rows)

    def to_embed(self, encoder: Encoder) -> int:
        """Of how many cases the caches hold no features."""
        layout = kept_layout(encoder, self.seen.shape[1])
        settings = {"encoder": encoder.identity, "views": self.seen.settings, "layout": list(layout)}
        folder, shape = Workspace(self.seen.pool.name).caches / "embeddings", (self.seen.shape[0], layout.size)
        return len(self.seen.pool) - len(
            CaseRows.written(folder, known_hashes(self.seen.pool), settings, shape, np.float32)
        )

    def seconds_to_draw(self) -> float:
        """What drawing the pictures of a case takes."""
        reader = self.seen.pool.reader()
        began = time.perf_counter()
        image, properties = read_image(self.views.pool.cases[0], reader)
        draw_case(image, list(self.seen.channel_names), geometry=Geometry.of(properties))
        return time.perf_counter() - began


def _evenly(cases: Sequence[Case]) -> list[Case]:
    places = np.unique(np.linspace(0, len(cases) - 1, min(len(cases), _CASES)).astype(int))
    return [cases[i] for i in places]


def _looked_at(seen: HowSeen, cases: Sequence[Case], *, skip_broken: bool) -> dict[str, tuple[np.ndarray, CaseFacts]]:
    """Views and facts of cases, hashed first as select does."""
    found = {}
    with read_ahead(lambda case: (sha256_files(files_read(case)), seen.views_of(case)), cases) as read:
        for case, future in zip(cases, read, strict=True):
            try:
                _, found[case.identifier] = future.result()
            except BrokenImage:
                if not skip_broken:
                    raise
    return found
