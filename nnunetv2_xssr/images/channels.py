"""Channels by name: which pools show the same ones, and in which order."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import ImagePool

UNNAMED = "channel"  # every channel of a pool without names, which nnU-Net normalises by z-score


def normalisation_schemes(channel_names: Sequence[str]) -> list[str]:
    """Names of nnU-Net's normalisation schemes for these channels."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    return [get_normalization_scheme(name).__name__ for name in channel_names]


def channel_order(channel_names: Sequence[str], *, like: Sequence[str]) -> tuple[int, ...] | None:
    """Where among the channels those of ``like`` are, one number per channel; None if these are not the same channels.

    Names decide, in upper or lower case; where a side has none, the normalisation schemes must agree one by one.
    """
    if UNNAMED in (*channel_names, *like):
        same = normalisation_schemes(channel_names) == normalisation_schemes(like)
        return tuple(range(len(like))) if same else None
    if sorted(_folded(channel_names)) != sorted(_folded(like)):
        return None
    return shared_in_place(channel_names, like=like)


def shared_in_place(channel_names: Sequence[str], *, like: Sequence[str]) -> tuple[int, ...]:
    """Where among the channels those of ``like`` are; where it has one that is missing, one that is left, in turn.

    Both have the same number of channels; names decide as in `channel_order`.
    """
    here = _folded(channel_names)
    left = list(range(len(here)))
    found: list[int | None] = []
    for name in _folded(like):
        found.append(next((place for place in left if here[place] == name), None))
        left = [place for place in left if place != found[-1]]
    return tuple(left.pop(0) if place is None else place for place in found)


def _folded(names: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in names]


def common_channels(pools: Sequence[ImagePool]) -> tuple[str, ...] | None:
    """The channels of all pools in the order of the first that has names; None if no pool has names.

    Raises
    ------
    UserError
        If two pools do not have the same channels, in whatever order.
    """
    named = [(pool.name, pool.channel_names) for pool in pools if pool.channel_names]
    if not named:
        return None
    (name, channels), *others = named
    for other, its in others:
        if channel_order(its, like=channels) is None:
            raise different_channels(name, channels, other, its)
    return channels


def with_channels(pools: Iterable[ImagePool], channel_names: Sequence[str] | None) -> list[ImagePool]:
    """The pools, of which those without names count as having these channels, in this order."""
    named = tuple(channel_names or ()) or None
    return [pool if pool.channel_names else replace(pool, channel_names=named) for pool in pools]


def different_channels(name: str, channels: Sequence[str], other_name: str, others: Sequence[str]) -> UserError:
    """The sentence for two pools that do not have the same channels."""
    return UserError(
        f"{name} has the channels {', '.join(channels)} but {other_name} has {', '.join(others)}; an encoder needs the "
        f"same channels everywhere, in any order: choose another source or fix channel_names in dataset.json"
    )
