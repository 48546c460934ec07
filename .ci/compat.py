"""What the package runs with: an environment for each version of Python and nnU-Net, and tests in it.

    make compat                       # a quick part of the tests
    make compat COMPAT=--whole        # all that `make test` runs
    make compat COMPAT="--only 2.6.4"

Interpreters are those that uv finds or can fetch; a row without one says so. uv takes no settings of pip: where wheels
lie elsewhere, such as those of torch for CPUs, UV_FIND_LINKS or UV_INDEX names them.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDER = CHECKOUT / "build" / "compat"
PYTHONS, NEWEST = ("3.10", "3.11", "3.12", "3.13"), "newest"
OLDER = ("2.6.4", "2.7.0")  # of nnU-Net, with interfaces that differ
SHOWN = ("nnunetv2", "torch", "numpy", "scikit-learn", "pydantic")
# Where nnU-Net is called: readers, plans, networks, trainers, and a select from images to report.
QUICK = [f"tests/{name}" for name in ("trainers", "test_link.py", "test_select_command.py", "test_annotation.py")]
QUICK += [f"tests/{name}" for name in ("pretrain/test_hssl.py", "images/test_decoding.py", "report/test_page.py")]
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "pydicom", "pyyaml"]


@dataclass(frozen=True)
class Row:
    """One environment; ``lowest`` has the oldest versions that setup.cfg allows."""

    python: str
    nnunetv2: str = NEWEST
    lowest: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"python{self.python}-" + ("lowest" if self.lowest else f"nnunetv2-{self.nnunetv2}")


def rows() -> list[Row]:
    """Every Python with the newest nnU-Net; the Python of this process with older ones, and with all that is lowest."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    older = [Row(here, version) for version in OLDER]
    return [*(Row(python) for python in PYTHONS), *older, Row(here, lowest=True)]


def log_of(folder: Path) -> Path:
    """What uv and pytest print of an environment."""
    return folder.with_name(f"{folder.name}.log")


def uv(*words: str | Path, folder: Path) -> None:
    """Run uv for an environment."""
    with open(log_of(folder), "a") as log:
        program = [sys.executable, "-m", "uv", *map(str, words)]
        subprocess.run(program, cwd=CHECKOUT, check=True, stdout=log, stderr=log)


def install(row: Row, folder: Path, *, whole: bool) -> Path:
    """Make the environment, and return its Python. torch goes first and pinned, as in the Makefile."""
    python = folder / "bin" / "python"
    uv("venv", "-q", "--clear", "--python", row.python, folder, folder=folder)
    pip = ("pip", "install", "-q", "--python", python, "-c", "constraints.txt")
    uv(*pip, "torch", folder=folder)
    pinned = [] if row.nnunetv2 == NEWEST else [f"nnunetv2=={row.nnunetv2}"]
    if row.lowest:  # also of what torch has brought in a newer version
        pinned = ["--resolution", "lowest-direct", "--upgrade", f"torch=={version_of(python, 'torch')}"]
    uv(*pip, "-e", ".", *pinned, folder=folder)
    uv(*pip, *(["-e", ".[dev]"] if whole else TOOLS), folder=folder)
    return python


def version_of(python: Path, package: str) -> str:
    """The version of a package in an environment."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def tried(row: Row, *, whole: bool, tests: list[str]) -> list[str]:
    """The cells of a row: Python, versions, and how the tests ended."""
    folder = FOLDER / row.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    log_of(folder).unlink(missing_ok=True)
    label = f"{row.python}, lowest" if row.lowest else row.python
    try:
        python = install(row, folder, whole=whole)
    except subprocess.CalledProcessError:
        lines = log_of(folder).read_text().strip().splitlines()
        why = next((line for line in lines if line.startswith("error: ")), lines[-1])
        return [label, row.nnunetv2, *[""] * (len(SHOWN) - 1), f"not installed: {why[:100]}"]
    pytest = [python, "-m", "pytest", "-q", "-m", "not slow", *(["-n", "2", "--dist", "loadfile"] if whole else [])]
    with open(log_of(folder), "a") as log:
        subprocess.run([*pytest, *tests], cwd=CHECKOUT, stdout=log, stderr=log)
    last = log_of(folder).read_text().strip().splitlines()[-1]
    return [label, *(version_of(python, package) for package in SHOWN), re.sub(r" in [\d.]+s.*|=", "", last).strip()]


def main() -> int:
    """Print the table; 1 if any test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="all that `make test` runs, in place of a quick part")
    parser.add_argument("--only", default="", help="rows whose name holds this: python3.11-lowest, nnunetv2-2.6.4, ...")
    parser.add_argument("tests", nargs="*", help="in place of the quick part")
    args = parser.parse_args()
    tests = args.tests or ([] if args.whole else QUICK)
    table = [["Python", *SHOWN, "tests"]]
    table += [tried(row, whole=args.whole, tests=tests) for row in rows() if args.only in row.name]
    table.insert(1, ["---"] * len(table[0]))
    print("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    return int(any("failed" in cells[-1] or "error" in cells[-1] for cells in table[2:]))


if __name__ == "__main__":
    sys.exit(main())
