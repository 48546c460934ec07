"""Former address of `nnunetv2_xssr.images.extract`, for scripts that import `extract_views` from here."""

from nnunetv2_xssr.images.extract import extract_views

__all__ = ["extract_views"]
