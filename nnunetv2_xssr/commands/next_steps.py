"""What every command of an annotation project ends with: what to do next."""

from nnunetv2_xssr.commands.running import resolve_device
from nnunetv2_xssr.images.pools import ImagePool


def describe_next(pool: ImagePool, device: str | None = None) -> str:
    """The next steps in words; the device is the best there is unless one is given."""
    from nnunetv2_xssr.annotation.project import next_steps, project_of

    steps = next_steps(project_of(pool), resolve_device(device))
    return "\n".join(["next:", *(f"  {step}" for step in steps)])
