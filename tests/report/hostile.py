"""A report in which the names of cases try what they can."""

import re

from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.report.facts import gather
from nnunetv2_xssr.report.page import pictures, render
from nnunetv2_xssr.report.selection_data import load_record, load_selection_data

NAMES = [
    "</script><script>window.hacked=1</script>",
    "\"><img src=x onerror='window.hacked=1'>",
    "' onmouseover=window.hacked=1 x='",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
    "line\nbreak\u2028",
    "__proto__",
    "constructor",
    "ünï→çødé \U0001f9e0",
    "]]>&amp;&#60;b>",
]


def hostile_page(dataset="Dataset002_Target"):
    """The report of a dataset with cases t_00 to t_09, or v_0 to v_9, renamed, and the names of its picks."""
    kept = load_selection_data(load_record(Workspace(dataset)))
    facts = gather(kept)
    shown = pictures(kept, facts)

    def rename(value):
        if isinstance(value, dict):
            return {rename(key): rename(part) for key, part in value.items()}
        if isinstance(value, list):
            return [rename(part) for part in value]
        # At the beginning, as that of a slice goes on.
        return re.sub(r"^(t_0|v_)(\d)", lambda found: NAMES[int(found[2])], value) if isinstance(value, str) else value

    facts = rename(facts)
    for pick, name in zip(facts["selections"][0]["picks"], NAMES, strict=False):
        pick["domain"] = pick["group"] = name
    for row, name in zip(facts["selections"][0]["domains"] or [], NAMES, strict=False):
        row["domain"] = name
    facts["set_aside"] = facts["settings"]["source"] = NAMES
    facts["vetoes"] = {name: None for name in NAMES if "\n" not in name}
    facts["look_again"] = {name: NAMES for name in NAMES}
    return render(facts, rename(shown), selection="s0"), [pick["case"] for pick in facts["selections"][0]["picks"]]
