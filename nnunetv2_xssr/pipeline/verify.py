"""What nnUNetv2_xssr_verify does, for Python: say what has changed since a selection was made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from nnunetv2_xssr.encoders.feature_files import read_features
from nnunetv2_xssr.encoders.opened_mae import OpenedAutoencoder
from nnunetv2_xssr.encoders.registry import DEFAULT, open_encoder
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.case_rows import CaseRows, read_file_hashes, read_index, rows_hash
from nnunetv2_xssr.images.pools import Case, dataset_pool
from nnunetv2_xssr.images.reading import files_read
from nnunetv2_xssr.pipeline.embed import features_hash
from nnunetv2_xssr.records.files import is_there, read_json, sha256_files, sha256_json
from nnunetv2_xssr.records.manifest import Manifest, id_in_worklist, selection_id
from nnunetv2_xssr.records.rounds import interruption, load_rounds
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.split import read_split
from nnunetv2_xssr.records.workspace import (
    DEFAULT_NAME,
    Workspace,
    check_environment,
    find_dataset,
    names_dataset,
)
from nnunetv2_xssr.report.selection_data import load_record, load_selection_data


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What has changed since a selection was made.

    Attributes
    ----------
    dataset, name : str
    selection : str
        The id of the selection.
    whole : list of str
        What is as it was.
    changed : list of str
        A sentence for everything that is not.
    """

    dataset: str
    name: str
    selection: str
    whole: list[str]
    changed: list[str]


def verify_selection(target: str | int, *, name: str = DEFAULT_NAME) -> Verification:
    """Hash all that belongs to a selection anew, and say what has changed since; nothing is written.

    Images are compared with what the views were made of, cached views with the manifest, features with the record; so
    are the encoder, the split, the hand-overs, the labels as last collected, and the versions of packages. In a plain
    folder, which the record does not name, images that were added are not seen. Where features made elsewhere were
    compared, nothing is said of images.

    Parameters
    ----------
    target : str or int
        nnU-Net raw dataset, by name or number.
    name : str
        Of the selection.

    Raises
    ------
    UserError
        If there is no such selection, or its record or manifest cannot be read.
    """
    check_environment()
    workspace = Workspace(find_dataset(target), name)
    found = _Found(workspace, load_record(workspace), Manifest.load(workspace.manifest))
    whole, changed = [], []
    for part, check in _CHECKS.items():
        try:
            sentences = list(check(found))
        except UserError as error:
            sentences = [str(error)]
        except OSError as error:
            sentences = [f"{error.filename} cannot be read: {error.strerror}"]
        changed += sentences
        whole += [part] * (not sentences and (found.saw_images or part not in _OF_IMAGES))
    return Verification(
        dataset=workspace.dataset,
        name=name,
        selection=selection_id(read_json(workspace.record)),
        whole=whole,
        changed=changed,
    )


@dataclass(frozen=True)
class _Found:
    """What lies on disk."""

    workspace: Workspace
    record: SelectionRecord
    manifest: Manifest | None

    @property
    def saw_images(self) -> bool:
        """Whether images were read: for features made elsewhere none was, and nothing is known of them."""
        return bool(self.record.provenance.get("views_cache"))

    @cached_property
    def images(self) -> dict[str, dict[str, str]]:
        """Pool to the hashes of its cases, as its views were made of them; none for features made elsewhere."""
        keys = self.record.provenance.get("views_cache", {})
        return {pool: read_index(Workspace(pool).caches / "views", key)["cases"] for pool, key in keys.items()}


def _one_selection(found: _Found) -> Iterator[str]:
    if found.manifest is None:
        yield f"{found.workspace.manifest} is missing, as in a selection of an older version; run the same select again"
    elif sentence := interruption(found.workspace):
        yield sentence


def _versions(found: _Found) -> Iterator[str]:
    now = {name: _version(name) for name in found.record.versions}
    differing = [f"{name} was {old}, is {now[name]}" for name, old in found.record.versions.items() if old != now[name]]
    if differing:
        yield f"packages have other versions: {', '.join(differing)}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _images(found: _Found) -> Iterator[str]:
    for pool, before in found.images.items():
        files = _files_now(pool)
        gone, added = sorted(set(before) - set(files)), sorted(set(files) - set(before))
        replaced = [case for case in before if case in files and sha256_files(files[case]) != before[case]]
        yield from _listed(f"cases of {pool}", "are gone", gone)
        yield from _listed(f"cases of {pool}", "were added", added)
        yield from _listed(f"cases of {pool}", "have other images", replaced)


def _files_now(pool: str) -> dict[str, list[Path]]:
    """The files of every case whose files are all there."""
    if names_dataset(pool):
        files = {case.identifier: files_read(case) for case in dataset_pool(pool).cases}
    else:  # a plain folder, of which our own list of hashes knows the paths
        known = read_file_hashes(Workspace(pool).caches / "files.json")
        files = {case: [Path(str(path)) for path, *_ in entry["stamp"]] for case, entry in known.items()}
    return {case: paths for case, paths in files.items() if all(path.is_file() for path in paths)}


def _views(found: _Found) -> Iterator[str]:
    for kind in ("views", "facts"):
        for pool, key in cast(dict, found.record.provenance).get(f"{kind}_cache", {}).items():
            CaseRows.load(Workspace(pool).caches / kind, key)  # which names the cases whose rows have changed
    for pool, before in (found.manifest.views if found.manifest else {}).items():
        folder, key = Workspace(pool).caches / "views", found.record.provenance.get("views_cache", {}).get(pool, "")
        if rows_hash(folder, key) != before:
            yield f"the cached views of {pool} in {folder} are not those that were embedded"


def _embeddings(found: _Found) -> Iterator[str]:
    record = found.record
    if record.settings.get("embeddings"):
        keys = record.provenance["embeddings_cache"]
        kept = [CaseRows.load(Workspace(pool).caches / "embeddings", key)[0].rows[:, 0] for pool, key in keys.items()]
    else:
        data = load_selection_data(record)
        kept = [pool.embeddings for pool in (data.target, *data.sources)]
    if features_hash(kept) != record.provenance["embeddings"]:
        yield f"the cached features in {found.workspace.caches / 'embeddings'} are not those that were compared"


def _encoder(found: _Found) -> Iterator[str]:
    record, settings = found.record, found.record.settings
    if settings.get("embeddings"):
        files = [("--embeddings", settings["embeddings"]), ("--source_embeddings", settings.get("source_embeddings"))]
        given = [read_features(Path(file), option=option, cases=None)[1] for option, file in files if file]
        if features_hash(given) != record.provenance["encoder"]:
            yield f"{' or '.join(file for _, file in files if file)} holds other features"
        return
    weights = settings.get("encoder_weights")
    opened = open_encoder(
        settings["encoder"] or DEFAULT,
        weights=Path(weights) if weights else None,
        learn_from=settings["source"] or [record.dataset],
        dim=settings["dim"],
        device="cpu",
    )
    if isinstance(opened, OpenedAutoencoder) and opened.known is None:
        yield f"the encoder {opened.path} is gone"
        return
    encoder: Any = opened.known if isinstance(opened, OpenedAutoencoder) else opened
    # Those without weights in a file are made anew by every run.
    if getattr(encoder, "weights", None) and encoder.identity != record.provenance["encoder"]:
        before, now = record.encoder.get("learned_on"), getattr(encoder, "learned_on", None)
        # The same pretraining ends with other last bits there.
        why = f"; that learned on {before}, this one on {now}" if before != now else ""
        yield f"the encoder {record.encoder.get('name', '')} is another one than the one that embedded{why}"


def _split(found: _Found) -> Iterator[str]:
    split = found.workspace.split
    if found.manifest and not found.manifest.split and not is_there(split):
        return  # no label was collected yet
    if found.manifest and sha256_json(read_split(split)) != found.manifest.split:
        yield f"{split} was changed since; select or collect again, which write it"


def _options(found: _Found) -> Iterator[str]:
    config, before = found.workspace.config, found.manifest and found.manifest.config
    if before and not config.is_file():
        yield f"the options in {config} are gone"
    elif before and sha256_files([config]) != before:
        yield f"the options in {config} were changed: they are not those of the selection"


def _handovers(found: _Found) -> Iterator[str]:
    workspace, rounds = found.workspace, [one for one in load_rounds(found.workspace) if one.mode == "annotation"]
    before = found.images.get(workspace.dataset, {})
    ending = dataset_pool(workspace.dataset).file_ending
    for record in rounds:
        folder, is_last = workspace.handover(record.round), record is rounds[-1]
        if not folder.is_dir():
            if is_last and record.picked:
                yield f"the hand-over {folder} is gone"
            continue
        path = workspace.record if is_last else workspace.round_record(record.round)
        if id_in_worklist(workspace.worklist(record.round)) not in (None, selection_id(read_json(path))):
            yield f"{workspace.worklist(record.round)} is of another selection than {path}"
        images = {case: folder / "images" for case in record.picked if case in before}
        other = [case for case, place in images.items() if _hash_of(place, case, ending) != before[case]]
        yield from _listed(f"images in {folder}", "are gone or not those of the pool", other)


def _hash_of(folder: Path, case: str, ending: str) -> str:
    """SHA-256 of a case's images in a folder, under nnU-Net's names."""
    images = tuple(sorted(folder.glob(f"{escape(case)}_[0-9][0-9][0-9][0-9]{ending}")))
    return sha256_files(files_read(Case(identifier=case, files=images)) if images else [])


def _labels(found: _Found) -> Iterator[str]:
    labels = found.manifest.labels if found.manifest else {}
    home = found.workspace.labels
    ending = dataset_pool(found.workspace.dataset).file_ending
    files: Mapping[str, Path] = {case: home / f"{case}{ending}" for case in labels}
    yield from _listed(f"labels in {home}", "are gone", [case for case, file in files.items() if not file.is_file()])
    there = [case for case, file in files.items() if file.is_file()]
    changed = [case for case in there if sha256_files([files[case]]) != labels[case]]
    yield from _listed(f"labels in {home}", "were changed since they were collected", changed)


def _listed(what: str, how: str, names: list[str]) -> Iterator[str]:
    if names:
        yield f"{len(names)} {what} {how}: {first_few(names)}"


_OF_IMAGES = ("images", "views")
_CHECKS: dict[str, Callable[[_Found], Iterator[str]]] = {
    "files of one selection": _one_selection,
    "versions": _versions,
    "images": _images,
    "views": _views,
    "features": _embeddings,
    "encoder": _encoder,
    "options": _options,
    "split": _split,
    "hand-overs": _handovers,
    "collected labels": _labels,
}
