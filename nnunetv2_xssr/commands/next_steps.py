"""What every command of an annotation project ends with: what to do next."""

from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.records.workspace import Workspace


def describe_next(workspace: Workspace, *, device: str | None = None) -> str:
    """The next steps in words; the device is the best there is unless one is given."""
    from nnunetv2_xssr.annotation.project import next_steps, project_status

    status = project_status(workspace.dataset, name=workspace.name)
    return "\n".join(["next:", *(f"  {step}" for step in next_steps(status, device=resolve_device(device)))])
