"""One table of all faults that were tried, printed in the end: nothing may be lost, silently used, or end badly."""

from collections import Counter

import pytest

OUTCOMES = ("losses", "silent uses", "tracebacks", "hangs")
_PROPERTY = "faults"
_ALL = "all"
_SHOWN = 6  # ways of a fault


class Faults:
    """What was tried, and what went wrong."""

    def __init__(self):
        self.rows, self.wrong = [], []

    def note(self, fault, what, how, tries=1, **wrong):
        """Count a try.

        Parameters
        ----------
        fault, what, how : str
            Such as kill, the command that was killed, and the signal.
        tries : int
        wrong : list of str
            What went wrong, by `OUTCOMES`, with _ for the space.
        """
        counts = [int(bool(wrong.get(outcome.replace(" ", "_")))) for outcome in OUTCOMES]
        self.rows.append([fault, what, how, int(tries), *counts])
        self.wrong += [f"{fault}, {what}, {how}: {kind}: {words}" for kind, words in wrong.items() if words]

    def check(self):
        """Fail if anything went wrong."""
        assert not self.wrong, "\n".join([f"{len(self.wrong)} went wrong", *self.wrong[:20]])


@pytest.fixture
def faults(request):
    """Tells the table what was tried."""
    found = Faults()
    request.node.user_properties.append((_PROPERTY, found.rows))
    return found


def pytest_terminal_summary(terminalreporter):
    """Print the table if there is anything in it, whichever process tried it."""
    reports = [one for kind in terminalreporter.stats.values() for one in kind if getattr(one, "when", "") == "call"]
    rows = [row for one in reports for name, value in one.user_properties if name == _PROPERTY for row in value]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(table(rows)))


def table(rows):
    """Lines of Markdown: a row for each fault of each command or file, then the sums."""
    sums, ways, kinds = {}, {}, {}
    for fault, what, how, *counts in rows:
        kinds.setdefault(fault, set()).add(what)
        for key in ((fault, what), (fault, _ALL), (_ALL, _ALL)):
            sums[key] = [a + b for a, b in zip(sums.get(key, [0] * len(counts)), counts, strict=True)]
            ways.setdefault(key, Counter())[how] += counts[0]
    lines = [f"| fault | of what | how | tries | {' | '.join(OUTCOMES)} |", "|---|---|---|" + "---:|" * 5]
    for key in sorted(sums, key=lambda key: (key.count(_ALL), key)):
        few = [f"{n} {way}" for way, n in sorted(ways[key].items()) if n] if len(ways[key]) <= _SHOWN else []
        what = f"all {len(kinds[key[0]])}" if key.count(_ALL) == 1 else key[1]
        lines.append(f"| {key[0]} | {what} | {', '.join(few)} | {' | '.join(map(str, sums[key]))} |")
    return lines
