"""How much is drawn in a label, in how many pieces and where: kept by the label's hash, so that each is read once."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
from annotated_types import Len
from tqdm import tqdm

from nnunetv2_xssr.annotation.label_check import IGNORE, label_values, shown
from nnunetv2_xssr.annotation.label_files import read_label
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.grids import axes
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import is_there, read_json, sha256_files, write_json
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import OURS, Count, FileName, Number, read_as
from nnunetv2_xssr.records.workspace import Workspace

KIND, FORMAT_VERSION = "facts of labels", 2


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn with one value.

    Attributes
    ----------
    volume : float
        Cubic millimetres, of flat files square ones; pixels where the file tells no spacing.
    pieces : int
        Connected components, of voxels that touch at a face, an edge or a corner.
    centre : list of float
        The centre of gravity as a share of the image, from 0 to 1, along the canonical axes (z, y, x) of
        `nnunetv2_xssr.images.geometry`.
    """

    __pydantic_config__ = OURS

    volume: Number
    pieces: Count
    centre: Annotated[list[Number], Len(3, 3)]


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """The facts of one label.

    Attributes
    ----------
    sha256 : str
        Of its file.
    whole : bool
        Whether no voxel is to be ignored: of single slices neither volume nor position can be told.
    known : bool
        Whether the file tells the directions.
    drawn : dict
        Value, as text, to what is drawn with it; values of which nothing is drawn are not in it.
    """

    __pydantic_config__ = OURS

    sha256: str
    whole: bool
    known: bool
    drawn: dict[str, Drawn]


@dataclass(frozen=True, kw_only=True)
class _Record:
    __pydantic_config__ = OURS

    labels: dict[FileName, LabelFacts]


def load_label_facts(workspace: Workspace) -> dict[str, LabelFacts]:
    """The facts that collect has kept; none before it did."""
    path = workspace.label_facts
    if not is_there(path):
        return {}
    advice = "delete it, and collect again"
    labels = read_as(path, _Record, kind=KIND, version=FORMAT_VERSION, advice=advice).labels
    # The first format measured flat files by a thickness that they do not have: they are read once more.
    return labels if read_json(path)["format_version"] == FORMAT_VERSION else {}


def keep_label_facts(
    workspace: Workspace, pool: ImagePool, cases: Collection[str], *, known: Mapping[str, LabelFacts]
) -> dict[str, LabelFacts]:
    """Read the labels of these cases that are new or have changed since they were known, and keep the facts of all."""
    files = {case: workspace.labels / f"{case}{pool.file_ending}" for case in sorted(cases)}
    files = {case: file for case, file in files.items() if file.is_file()}
    hashes = {case: sha256_files([file]) for case, file in files.items()}
    facts = {case: known[case] for case in files if case in known and known[case].sha256 == hashes[case]}
    for case in tqdm([case for case in files if case not in facts], desc="measuring labels", unit="case", disable=None):
        try:
            label, properties, _ = read_label(files[case], pool.reader())
            facts[case] = label_facts(label[0], properties, pool.dataset_json, sha256=hashes[case])
        except Exception as error:  # readers raise whatever their library raises
            name, why = shown(files[case], pool), str(error)[:100]
            logger.warning(f"{name} cannot be read ({why}) and is compared with no other label")
    if facts != known:
        write_json(
            workspace.label_facts,
            {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(_Record(labels=dict(sorted(facts.items()))))},
        )
    return facts


def label_facts(label: np.ndarray, properties: dict, dataset_json: Mapping, *, sha256: str) -> LabelFacts:
    """Measure a label of shape (z, y, x), as nnU-Net's reader gives it with its properties."""
    from scipy import ndimage

    geometry = Geometry.of(properties)
    (turned,) = geometry.canonical(np.rint(label)[None].astype(np.int32))
    tells_spacing = "sitk_stuff" in properties or "nibabel_stuff" in properties
    spacing = geometry.spacing[1:] if axes(properties) == 2 else geometry.spacing  # nnU-Net makes flat files thick
    voxel = float(np.prod(spacing)) if tells_spacing else 1.0
    ignore = next((value for value, name in label_values(dict(dataset_json)).items() if name == IGNORE), None)
    drawn = {}
    for value in np.unique(turned).tolist():
        if value in (0, ignore):
            continue
        mask = turned == value
        _, pieces = ndimage.label(mask, np.ones((3, 3, 3), int))
        centre = (np.array(ndimage.center_of_mass(mask)) + 0.5) / mask.shape
        drawn[str(value)] = Drawn(
            volume=float(mask.sum() * voxel), pieces=int(pieces), centre=[round(share, 6) for share in centre.tolist()]
        )
    return LabelFacts(sha256=sha256, whole=bool((turned != ignore).all()), known=geometry.known, drawn=drawn)
