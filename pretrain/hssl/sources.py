"""What each source is made into for the network of the target's plans: its normalisation, channels and spacing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_xssr.images.channels import shared_in_place
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.statistics import statistics_of
from nnunetv2_xssr.records.files import sha256_json

_FAR_APART = 2.0  # ratio of two spacings above which the same voxels show things of another size


@dataclass(frozen=True, kw_only=True)
class Source:
    """One pool and how it is preprocessed.

    Attributes
    ----------
    pool : ImagePool
    plans : TargetPlans
        The target's, with the normalisation of this pool.
    order : tuple of int
        Where among the pool's channels those of the network are.
    spacing : tuple of float
        Median of the files, in millimetres along the axes of a patch.
    """

    pool: ImagePool
    plans: TargetPlans
    order: tuple[int, ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, pool: ImagePool, plans: TargetPlans) -> "Source":
        """A pool for the target's plans; the images of the target itself are preprocessed as nnU-Net will for training.

        Channels of the target's names are put where it has them, the others into what is left, in turn. A plain folder
        without names has the target's.
        """
        if pool.name == plans.dataset:
            return cls(pool=pool, plans=plans, order=tuple(range(len(plans.channel_names))), spacing=plans.spacing)
        names = pool.channel_names or plans.channel_names
        statistics = statistics_of(pool, names)
        as_many = len(names) == len(plans.channel_names)
        return cls(
            pool=pool,
            plans=plans.for_pool(names, statistics),
            order=shared_in_place(names, like=plans.channel_names) if as_many else tuple(range(len(names))),
            spacing=plans.along_patch(statistics.spacing),
        )

    @property
    def key(self) -> str:
        """SHA-256 of all that decides the preprocessed images."""
        return sha256_json([self.plans.preprocessing(), self.order, type(self.pool.reader()).__name__])

    @property
    def normalisation(self) -> str:
        """For the log: every channel's scheme, and its range where that is the pool's own."""
        schemes = self.plans.configuration.normalization_schemes
        parts = [f"{name} by {scheme}" for name, scheme in zip(self.plans.channel_names, schemes, strict=True)]
        for i, scheme in enumerate(schemes):
            if scheme == "CTNormalization":
                found = self.plans.manager.foreground_intensity_properties_per_channel[str(i)]
                parts[i] += f" ({found['percentile_00_5']:.0f} to {found['percentile_99_5']:.0f})"
        return ", ".join(parts)


def far_spacings(sources: Sequence[Source], plans: TargetPlans) -> str | None:
    """A sentence if two spacings, of sources or plans, differ by more than a factor of two along an axis of a patch."""
    spacings = {source.pool.name: source.spacing for source in sources} | {"the plans": plans.spacing}
    ratio = max(max(along) / min(along) for along in zip(*spacings.values(), strict=True))
    if not (math.isfinite(ratio) and ratio > _FAR_APART):
        return None
    listed = "; ".join(f"{name} {' x '.join(f'{one:.3g}' for one in spacing)}" for name, spacing in spacings.items())
    return (
        f"spacings differ by a factor of {ratio:.1f} ({listed} mm): all images are resampled to the plans', so that "
        f"some become blurred or lose what is small; leave out what is too far"
    )
