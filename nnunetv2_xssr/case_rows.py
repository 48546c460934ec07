"""Former address of `nnunetv2_xssr.images.case_rows`, for scripts that import `CaseRows` from here."""

from nnunetv2_xssr.images.case_rows import CaseRows

__all__ = ["CaseRows"]
