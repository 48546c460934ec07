"""What the installed commands start with: the answer to Ctrl-C first, because what they import takes seconds."""

from functools import partial
from importlib import import_module

from nnunetv2_xssr.interrupts import end_on_ctrl_c


def start(name: str, argv: list[str] | None = None) -> int:
    """Run the command of a module in `nnunetv2_xssr.commands` and return its exit code."""
    end_on_ctrl_c()
    return import_module(f"nnunetv2_xssr.commands.{name}").main(argv)


benchmark = partial(start, "benchmark")
collect = partial(start, "collect")
demo = partial(start, "demo")
embed = partial(start, "embed")
hssl_pretrain = partial(start, "hssl_pretrain")
link = partial(start, "link")
pretrain = partial(start, "pretrain")
report = partial(start, "report")
select = partial(start, "select")
status = partial(start, "status")
verify = partial(start, "verify")
weights = partial(start, "weights")
