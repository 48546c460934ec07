"""The house: which room may use which, how long modules and functions may be, and what is public."""

import ast
import inspect

import pytest
from making import CHECKOUT

import nnunetv2_xssr

LONGEST_MODULE, LONGEST_FUNCTION, MOST_PUBLIC_NAMES = 400, 60, 14
EVERYBODY_USES = {"errors", "version"}
# From top to bottom: a room uses those that are named, which all stand below it.
ROOMS = {
    "entry": {"commands", "interrupts"},
    "commands": {
        "demo",
        "benchmark",
        "pipeline",
        "report",
        "annotation",
        "trainer_link",
        "pretrain",
        "images",
        "records",
        "device",
        "interrupts",
    },
    "demo": {"report", "records", "device", "processes"},
    "benchmark": {
        "pipeline",
        "encoders",
        "annotation",
        "trainer_link",
        "pretrain",
        "images",
        "trainers",
        "selection",
        "records",
        "device",
        "processes",
    },
    "pipeline": {"report", "annotation", "encoders", "pretrain", "images", "selection", "records", "device"},
    "report": {"annotation", "encoders", "images", "selection", "records"},
    "annotation": {"images", "records"},
    "trainer_link": {"trainers", "records"},
    "encoders": {"pretrain", "images", "selection", "records"},
    "pretrain": {"images", "selection", "records"},
    "images": {"records", "compiling"},
    "trainers": {"records"},
    "selection": {"records", "compiling"},
    "records": set(),
    "device": set(),
    "compiling": set(),
    "processes": {"interrupts"},
    "interrupts": set(),
}
HEAVY = {"torch", "nnunetv2", "SimpleITK", "nibabel", "skimage", "lightning_fabric"}


def modules():
    """Every module of the package: its file, its room and its syntax tree."""
    for top in ("nnunetv2_xssr", "pretrain", "selection", "trainers"):
        for file in sorted((CHECKOUT / top).rglob("*.py")):
            parts = file.relative_to(CHECKOUT).with_suffix("").parts
            room = parts[1] if top == "nnunetv2_xssr" and len(parts) > 1 else top
            yield file, room, ast.parse(file.read_text(encoding="utf-8"))


MODULES = list(modules())


def imports(tree):
    """Full names of what a module imports, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name):
    """The room that an imported name belongs to; None for other packages and for the package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "nnunetv2_xssr" and len(parts) > 1 and not parts[1].startswith("__") else None


def allowed(room):
    return ROOMS[room] | {room} | EVERYBODY_USES


@pytest.mark.parametrize("file, room, tree", [pytest.param(*m, id=str(m[0].relative_to(CHECKOUT))) for m in MODULES])
def test_rooms_import_downwards_only(file, room, tree):
    if room not in ROOMS:
        return  # __init__, which gives the public names, and the two former addresses
    used = {room_of(name) for name in imports(tree)} - {None}
    assert used <= allowed(room), f"{room} must not use {sorted(used - allowed(room))}"


def test_the_rooms_have_an_order():
    """No circle: every room uses only rooms that stand further down in the table."""
    order = list(ROOMS)
    assert all(order.index(used) > order.index(room) for room, uses in ROOMS.items() for used in uses)


def test_every_room_is_in_the_table():
    folders = {file.parent for file, _, _ in MODULES if file.parent != CHECKOUT / "nnunetv2_xssr"}
    found = {room for file, room, _ in MODULES if file.parent in folders}
    assert found <= set(ROOMS)


@pytest.mark.parametrize(
    "room, heavy",
    [
        ("selection", HEAVY),
        ("records", HEAVY),
        ("trainers", HEAVY - {"torch", "nnunetv2"}),
        ("pretrain", {"lightning_fabric"}),  # which imports torch's compiler: seconds, also where nothing is pretrained
    ],
)
def test_light_rooms_stay_light(room, heavy):
    for file, own, tree in MODULES:
        if own == room:
            top = {name.split(".")[0] for name in _at_import(tree)}
            assert not top & heavy, f"{file.name} imports {top & heavy}"


def _at_import(tree):
    """What is imported when the module is, not what its functions import when they are called."""
    return [name for node in tree.body for name in imports(ast.Module([node], [])) if not isinstance(node, _LATER)]


_LATER = (ast.FunctionDef, ast.ClassDef, ast.If)


def test_modules_are_short():
    long = {file.name: n for file, _, _ in MODULES if (n := len(file.read_text().splitlines())) > LONGEST_MODULE}
    assert not long


def test_functions_are_short():
    long = {
        f"{file.name}: {node.name}": length
        for file, _, tree in MODULES
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := _lines(node)) > LONGEST_FUNCTION
    }
    assert not long


def _lines(function):
    """Lines of a function's code, without its docstring."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_what_is_public_is_documented():
    names = nnunetv2_xssr.__all__
    assert len(names) <= MOST_PUBLIC_NAMES
    page = (CHECKOUT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in names:
        thing = getattr(nnunetv2_xssr, name)
        assert f"`{name}`" in page, f"docs/python.md does not name {name}"
        assert name == "__version__" or inspect.getdoc(thing), f"{name} has no docstring"


def test_past_the_data_public_calls_are_by_name():
    for name in nnunetv2_xssr.__all__:
        thing = getattr(nnunetv2_xssr, name)
        if inspect.isfunction(thing):
            positional = [p for p in inspect.signature(thing).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
            assert len(positional) <= 1, f"{name} takes {[p.name for p in positional]} by position"
