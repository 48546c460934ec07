"""What every command of an annotation project ends with: what to do next."""

from nnunetv2_xssr.commands.frame import resolve_device
from nnunetv2_xssr.pools import ImagePool


def describe_next(pool: ImagePool, device: str | None = None) -> str:
    """The next steps in words; the device is the best there is unless one is given."""
    from nnunetv2_xssr.project import next_steps, project_of

    steps = next_steps(project_of(pool), resolve_device(device))
    return "\n".join(["next:", *(f"  {step}" for step in steps)])
