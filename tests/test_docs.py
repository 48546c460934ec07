"""The documentation says what is so: its commands run, its options exist, its links lead somewhere."""

import argparse
import configparser
import importlib
import re
import shlex

import numpy as np
import pytest
from command_shell import entry_points
from making import CHECKOUT

from nnunetv2_xssr.selection import CRITERIA, STRATEGIES

DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", *sorted(DOCS.glob("*.md"))]
OURS = sorted(name for name in entry_points() if name.startswith(("nnUNetv2_xssr_", "nnUNetv2_hssl_")))
NOT_RUN = "<!-- not run in tests: "


def fences(page):
    """The fenced blocks of a page: language, text, and the line before."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, start = [], None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            before = next((text for text in reversed(lines[:start]) if text.strip()), "")
            found.append((lines[start][3:], "\n".join(lines[start + 1 : number]) + "\n", before))
            start = None
    assert start is None, f"{page.name}: the block of line {start + 1} does not end"
    return found


def parser_of(command):
    """What a command's main function parses its arguments with."""
    module, function = entry_points()[command]

    class Caught(Exception):
        pass

    def catch(parser, *_):
        raise Caught(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(Caught) as caught:
            getattr(importlib.import_module(module), function)([])
    return caught.value.args[0]


def options_of(command):
    """Option as it is typed to argparse's action, without the help."""
    actions = parser_of(command)._actions
    return {name: action for action in actions for name in action.option_strings if action.dest != "help"}


# --- what the tutorials type


def shape(line):
    """A line without what differs between two runs: figures, names of cases and folders."""
    line = re.sub(r"\S*/(?=(raw|preprocessed|results|results_\w+)/)", "", line.strip())
    line = re.sub(r"_[0-9a-f]{8}\b", "_hash", line)
    line = re.sub(r"demo_\d+(, |,$)?", "demo", line)
    return re.sub(r"[\d.]+", "#", re.sub(r"\s+", " ", line))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tutorial-study", "tutorial-new-site tutorial-rounds"])
def test_tutorial_runs_and_prints_what_it_shows(name, shell, tmp_path):
    """Several pages go on in one shell."""
    program, shown = [], []
    for language, text, before in (block for page in name.split() for block in fences(DOCS / f"{page}.md")):
        assert language in ("bash", "text"), f"{name} has a block of {language or 'no language'}"
        if language == "text":
            shown += [line for line in text.splitlines() if line.strip() and line.strip() != "..."]
        elif not before.startswith(NOT_RUN):
            program.append(text)
    assert len(program) > 5
    code, out = shell.run("".join(program), tmp_path)
    assert code == 0, out[-5000:]
    printed = [shape(line) for line in re.split(r"[\r\n]", out)]
    for line in shown:
        parts = [re.escape(shape(part)) for part in line.split("...")]
        found = any(re.search(".*".join(parts), text) for text in printed)
        assert found, f"{name} shows a line that is not printed: {line}\n{out[-8000:]}"
    every_file_is_listed(tmp_path)


def every_file_is_listed(folder):
    """All that our commands wrote stands in the table of files of the reference."""
    rows = re.findall(r"^\| `(nnUNet_\w+/[^`]+)`", (DOCS / "reference.md").read_text(encoding="utf-8"), re.M)
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    patterns = []
    for row in rows:
        base, rest = row.split("/", 1)
        patterns.append(f"{names[base]}/" + re.sub(r"[A-Z]{2,}", "*", rest))
    ours = ["preprocessed/*/xssr/**/*", "preprocessed/*/splits_xssr.json", "raw/*/annotate/**/*", "results/*/XSSR_*/*"]
    (home,) = {path.parent.parent for path in folder.rglob("raw/*")}
    written = [path.relative_to(home) for pattern in ours for path in home.glob(pattern) if path.is_file()]
    assert len(written) > 10
    unlisted = [str(path) for path in written if not any(path.match(pattern) for pattern in patterns)]
    assert not unlisted, f"not in the table of files of reference.md: {unlisted}"


def test_blocks_that_are_not_run_say_why():
    for page in PAGES:
        for language, text, before in fences(page):
            if language == "bash" and not page.name.startswith("tutorial-"):
                raise AssertionError(f"{page.name} has a block of bash that no test runs: {text}")
            if before.startswith("<!-- not run"):
                assert re.fullmatch(r"<!-- not run in tests: .{10,} -->", before), before


@pytest.mark.parametrize(
    ("page", "code"),
    [(page.name, text) for page in PAGES for language, text, _ in fences(page) if language == "python"],
)
def test_python_block_runs(page, code, shell, tmp_path):
    if "distributed" in code:
        pytest.importorskip("distributed")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "pool.npy", rng.normal(size=(2100, 8)).astype(np.float32))
    np.save(tmp_path / "source.npy", rng.normal(size=(50, 8)).astype(np.float32))
    process = shell.start_python(code, tmp_path)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, f"{page}: {err[-3000:]}"


# --- the reference and the options


def section(command):
    """The part of reference.md on a command."""
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {command}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found


@pytest.mark.parametrize("command", OURS)
def test_reference_has_every_option_and_no_other(command):
    rows = {}
    for first, rest in re.findall(r"^\| (`-[^|]*`[^|]*)\|(.*)\|$", section(command), re.M):
        for option in re.findall(r"`(-[\w-]+)", first):
            assert option not in rows, f"{option} stands twice"
            rows[option] = first, rest
    expected = options_of(command)
    assert sorted(rows) == sorted(expected)
    for option, action in expected.items():
        first, rest = rows[option]
        for choice in action.choices or ():
            assert f"`{choice}`" in first + rest, f"{option} does not name its choice {choice}"
        if action.required:
            assert "required" in rest, f"{option} is required"
        elif action.default not in (None, False, [], ""):
            default = " ".join(action.default) if isinstance(action.default, list) else action.default
            assert f"`{default}`" in rest, f"{option} does not name its default {default}"


@pytest.mark.parametrize("command", OURS)
def test_help_is_grouped_and_its_examples_can_be_typed(command):
    parser = parser_of(command)
    actions = [action for action in parser._actions if action.dest != "help"]
    assert len(actions) < 7 or not set(actions) & set(parser._optionals._group_actions)
    head, *examples = parser.epilog.splitlines()
    assert head == "examples:" and examples
    for example in examples:
        name, *argv = shlex.split(example)
        assert name == command
        parser.parse_args(argv)


@pytest.mark.parametrize("command", OURS)
def test_options_have_one_spelling_and_dashes_are_taken_too(command, capsys):
    parser = parser_of(command)
    required = [word for action in parser._actions for word in _needed(action)]
    required += ["-d", "2"] if command == "nnUNetv2_xssr_benchmark" else []
    for option, action in options_of(command).items():
        assert "-" not in option.lstrip("-"), f"{option} is written with underscores elsewhere"
        if "_" in option.lstrip("-") and option.startswith("--"):
            value = [] if action.nargs in (0, "?", "*") else [str((action.choices or [3])[0])]
            typed = [option.replace("_", "-"), *value]
            assert parser.parse_args([*required, *typed]) == parser.parse_args([*required, option, *value])
            if value:
                joined = f"{typed[0]}={value[0]}"
                assert parser.parse_args([*required, joined]) == parser.parse_args([*required, *typed])
    with pytest.raises(SystemExit):
        parser.parse_args([*required, "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err  # as it was typed


def _needed(action):
    return [action.option_strings[0], "2"] if action.required and action.option_strings else []


def test_help_explains_no_kind_of_embedding_that_is_refused():
    for command in ("nnUNetv2_xssr_select", "nnUNetv2_xssr_embed"):
        action = options_of(command)["--embedding"]
        assert ("gap" in action.choices) == ("gap" in action.help)


def test_reference_names_every_strategy_and_criterion():
    missing = [name for name in (*STRATEGIES, *CRITERIA) if f"`{name}`" not in section("nnUNetv2_xssr_select")]
    assert not missing


def test_reference_has_a_section_for_every_command():
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## (nnUNetv2_\w+)$", text, re.M)) == OURS


def typed(page):
    """The calls of our commands on a page: command and options."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for call in re.findall(r"(nnUNetv2_(?:xssr|hssl)_\w+(?!:)\b[^`\n|]*)", text):
        command, *words = re.split(r"\s+(?:#.*)?", call)
        yield command, [word for word in words if re.fullmatch(r"--?[a-zA-Z][\w-]*", word)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_typed_exist(page):
    for command, options in typed(page):
        assert command in OURS, f"{page.name} names {command}"
        unknown = set(options) - set(options_of(command)) - {"--help"}
        assert not unknown, f"{page.name} gives {command} {', '.join(unknown)}"


def test_options_in_the_text_are_some_commands():
    of_others = {
        "--val",
        "--verify_dataset_integrity",
        "-tr",
        "-pretrained_weights",
        "-np",
        "-npfp",
        "--help",
        "--signal",
        "--build-arg",  # of docker, and the next two
        "--ipc",
        "--gpus",
    }
    known = of_others.union(*(options_of(command) for command in OURS))
    for page in PAGES:
        if page.name in ("scaling.md", "speed.md", "embedding.md", "hssl.md"):
            continue  # on benchmarks, which have options of their own
        text = re.sub(r"^## Does it beat random.*?(?=^## )", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        named = re.findall(r"`(--?[a-zA-Z][\w-]*)", text)
        assert not set(named) - known, f"{page.name} names options that no command has"


# --- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target) if target else page
        assert file.is_file(), f"{page.name} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {link}, but {file.name} has no such heading"


def anchors(page):
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_path_of_a_machine():
    for page in PAGES:
        found = re.findall(r"(?<![\w.$}])/(?:home|tmp|work|root|Users)/\S*", page.read_text(encoding="utf-8"))
        assert not found, f"{page.name} names {found}"


# --- the site, which `make docs` builds


def test_nav_lists_every_page_once():
    nav = re.search(r"^nav:\n(.*?)^\S", (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"), re.M | re.S)
    listed = re.findall(r": ([\w-]+\.md)$", nav[1], re.M)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pages_link_to_nothing_beyond_the_site(page):
    assert not re.findall(r"\]\((\.\.[^)\s]*)\)", page.read_text(encoding="utf-8"))


def test_install_names_every_extra():
    """But that of developers, which `make test` installs."""
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    named = re.findall(r'pip install "\.\[(\w+)\]"', (DOCS / "install.md").read_text(encoding="utf-8"))
    assert sorted([*named, "dev"]) == sorted(setup["options.extras_require"])


def test_readme_is_short():
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
