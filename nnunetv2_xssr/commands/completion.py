"""What the shell proposes as the value of an option that takes one of some names, where it would propose files."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from nnunetv2_xssr.records.workspace import datasets_in

STRATEGIES = (
    *("xssr", "xssr_no_shares", "xssr_sum", "xssr_sum_no_density", "xssr_sum_no_novelty", "xssr_sum_no_diversity"),
    *("random", "coreset", "kmeans", "typiclust", "probcover", "facility_location", "maxherding"),
)
# Written out, because what holds them takes seconds to import; a test compares.
NAMES = {
    "--strategy": STRATEGIES,
    "--strategies": tuple(name for name in STRATEGIES if name != "random"),
    "--alpha_criterion": ("mean_distance", "covering_radius", "novel_mean_distance"),
    "--unit": ("case", "slice"),
    "--fuse": ("first", "majority", "staple"),
    "--judge": ("nnunet", "fast"),
    "--precision": ("32-true", "bf16-mixed", "16-mixed"),
}
ENCODERS = ("mae", "untrained", "nnunet:", "timm:", "intensity", "dictionary")


def propose_values(parser: argparse.ArgumentParser) -> None:
    """Tell argcomplete what to propose as values of a command's options; files, as always, for all others."""
    for action in parser._actions:
        for option in action.option_strings:
            if propose := _proposer(option):
                vars(action)["completer"] = propose


def _proposer(option: str) -> Callable[..., list[str]] | None:
    if option in NAMES:
        return lambda **_: list(NAMES[option])
    of_names: dict[str, Callable[..., list[str]]] = {"-d": _datasets, "-s": _sources, "--encoder": _encoders}
    return of_names.get(option)


def _datasets(**_) -> list[str]:
    raw = os.environ.get("nnUNet_raw")
    return [path.name for path in datasets_in(Path(raw))] if raw else []


def _sources(prefix: str, **_) -> list[str]:
    return [*_datasets(), *_files(prefix)]


def _encoders(prefix: str, **_) -> list[str]:
    return [*ENCODERS, *_files(prefix)]


def _files(prefix: str) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter()(prefix))
