"""Former address of `nnunetv2_xssr.images.views`, for scripts that import `extract_views` from here."""

from nnunetv2_xssr.images.views import extract_views

__all__ = ["extract_views"]
