"""What nnUNetv2_xssr_embed does, for Python: write the features by which select would compare cases."""

import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.encoders.feature_files import WRITTEN, FeatureFile, write_features
from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.images.pools import dataset_pool, open_pools
from nnunetv2_xssr.pipeline.embed import embed_pools
from nnunetv2_xssr.pipeline.given import source_names
from nnunetv2_xssr.pipeline.read import Seeing, read_pools
from nnunetv2_xssr.pretrain.settings import check_seed
from nnunetv2_xssr.records.files import atomic_together, naming, put_alone, remove_leftovers
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import check_environment, find_dataset


def embed_cases(
    target: str,
    *,
    output: Path,
    sources: Sequence[str] = (),
    recursive: bool = False,
    patient_ids: bool = True,
    skip_broken: bool = False,
    seed: int = 0,
    device: str | None = None,
    **seeing,
) -> list[Path]:
    """Write the features of a target, and of its sources beside them.

    Parameters
    ----------
    target : str
        nnU-Net raw dataset, by name or number.
    output : Path
        ``.npz`` or ``.csv``; the sources' are written to ``NAME_source`` with the same ending.
    sources : sequence of str
        Datasets or folders of unlabelled images.
    recursive, patient_ids : bool
        How folders are read: `nnunetv2_xssr.images.pools.folder_pool`.
    skip_broken : bool
        Leave cases out that cannot be read.
    seed : int
        Of what is random in learning.
    device : {"cuda", "cpu", "mps"}, optional
        The best there is by default.
    **seeing
        Fields of `nnunetv2_xssr.pipeline.read.Seeing`: ``encoder``, ``embedding``, ``dim``, ...

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    UserError
        If anything does not fit, or a file is there already.
    """
    check_environment()
    if output.suffix not in WRITTEN:
        raise one_of("-o, by its ending,", WRITTEN, str(output))
    files = [output, output.with_stem(f"{output.stem}_source")][: 1 + bool(sources)]
    _check_new(files)
    check_seed(seed)
    chosen = Seeing(**seeing)
    chosen.check("case")
    pool = dataset_pool(find_dataset(target))
    pools = open_pools(list(sources), channel_names=pool.channel_names, recursive=recursive, patient_ids=patient_ids)
    read = read_pools(pool, pools, seeing=chosen, unit="case", skip_broken=skip_broken, device=resolve_device(device))
    embedded = embed_pools(read, embedding=chosen.embedding, unit="case", seed=seed)
    _check_new(files)  # another command may have been as fast
    _remove_unfinished(files)
    widths = embedded.provenance["widths"]
    contents = [FeatureFile(embedded.identifiers, embedded.pool, widths)]
    if embedded.source is not None:
        contents.append(FeatureFile(source_names([views.pool for views in read.sources]), embedded.source, widths))
    with atomic_together(files[::-1]) as temporary:  # that of the target last: it is there when all is
        for one, file, content in zip(temporary[::-1], files, contents, strict=True):
            with naming(file):
                write_features(one, content)
    return files


def _check_new(files: Sequence[Path]) -> None:
    """Raise `UserError` if a file is there, unless a killed run of ours has left it alone."""
    there = [file for file in files if os.path.lexists(file)]
    whole = len(there) == len(files)
    if whole:
        _remove_temporary(files)
    if whole or not all(file.exists() and put_alone(file) for file in there):
        raise UserError(f"{there[0]} is there already; delete it, or give another -o")


def _remove_unfinished(files: Sequence[Path]) -> None:
    for file in files:
        if file.exists():
            logger.info("%s is of a run that was killed before all was written; it is made anew", file)
            file.unlink()
    _remove_temporary(files)


def _remove_temporary(files: Sequence[Path]) -> None:
    for file in files:
        remove_leftovers(file)
