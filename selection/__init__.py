"""Stage 2: choose k of n embedded cases. Numbers in, numbers out; no images, no network, no nnU-Net."""

from nnunetv2_xssr.selection.alpha import CRITERIA
from nnunetv2_xssr.selection.budget import parse_budget, parse_cost_budget, parse_minutes
from nnunetv2_xssr.selection.constraints import Constraints
from nnunetv2_xssr.selection.options import check_options
from nnunetv2_xssr.selection.select import Selection, select
from nnunetv2_xssr.selection.standardise import standardise
from nnunetv2_xssr.selection.strategies import STRATEGIES

__all__ = [
    "CRITERIA",
    "STRATEGIES",
    "Constraints",
    "Selection",
    "check_options",
    "parse_budget",
    "parse_cost_budget",
    "parse_minutes",
    "select",
    "standardise",
]
