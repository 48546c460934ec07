"""Pick the few cases of a new site that are worth annotating, then train stock nnU-Net v2 on them.

What the commands do, for Python: each function takes what its command takes and returns the record that it wrote.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.version import __version__

if TYPE_CHECKING:
    from nnunetv2_xssr.annotation.collecting import Collected, collect_labels
    from nnunetv2_xssr.annotation.project import Project, project_status
    from nnunetv2_xssr.errors import UserError
    from nnunetv2_xssr.pipeline.pretraining import pretrain_encoder, pretrain_unet
    from nnunetv2_xssr.pipeline.select_cases import select_cases
    from nnunetv2_xssr.pipeline.verify import Verification, verify_selection
    from nnunetv2_xssr.records.selection import SelectionRecord
    from nnunetv2_xssr.records.workspace import Workspace
    from nnunetv2_xssr.report.page import write_report

__all__ = [
    "Collected",
    "Project",
    "SelectionRecord",
    "UserError",
    "Verification",
    "Workspace",
    "__version__",
    "collect_labels",
    "pretrain_encoder",
    "pretrain_unet",
    "project_status",
    "select_cases",
    "verify_selection",
    "write_report",
]

# In a checkout the stages lie beside this folder (setup.cfg maps them into this name space when installed).
# Python started in the checkout finds this half of the package first, so it must know where the other half is.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file() and (_checkout / "selection").is_dir():
    __path__.append(str(_checkout))

_HOME = {
    "Collected": "annotation.collecting",
    "Project": "annotation.project",
    "SelectionRecord": "records.selection",
    "UserError": "errors",
    "Verification": "pipeline.verify",
    "Workspace": "records.workspace",
    "collect_labels": "annotation.collecting",
    "pretrain_encoder": "pipeline.pretraining",
    "pretrain_unet": "pipeline.pretraining",
    "project_status": "annotation.project",
    "select_cases": "pipeline.select_cases",
    "verify_selection": "pipeline.verify",
    "write_report": "report.page",
}


def __getattr__(name: str):
    # Torch and nnU-Net take seconds to import: only what needs them pays for them.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
