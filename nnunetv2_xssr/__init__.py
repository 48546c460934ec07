"""Pick the few cases of a new site that are worth annotating, then train stock nnU-Net v2 on them."""

from pathlib import Path

from nnunetv2_xssr.version import __version__

__all__ = ["__version__"]

# In a checkout the stages lie beside this folder (setup.cfg maps them into this name space when installed).
# Python started in the checkout finds this half of the package first, so it must know where the other half is.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file() and (_checkout / "selection").is_dir():
    __path__.append(str(_checkout))
