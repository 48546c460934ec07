"""Compiled loops start wherever the package does, with a folder for what is compiled or without."""

import ast

import pytest
from making import CHECKOUT
from numba.core import caching

from nnunetv2_xssr.compiling import compiled


@pytest.mark.parametrize("writable", [True, False])
def test_a_loop_is_compiled_without_a_folder_too(monkeypatch, writable):
    if not writable:  # as where neither site-packages nor HOME can be written
        monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])

    @compiled()
    def total(values):
        result = 0
        for value in values:
            result += value
        return result

    assert total((1, 2, 3)) == 6
    assert total.nopython_signatures


def test_no_loop_is_told_true_or_false_by_another():
    """numba takes the two for types of their own, and would compile a loop once for each."""
    told = []
    for file in sorted((CHECKOUT / "selection").rglob("*.py")):
        functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        loops = {node.name: node for node in functions if "compiled" in map(_called, node.decorator_list)}
        for name, loop in loops.items():
            calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call) and _called(node) in loops]
            told += [name for call in calls for one in call.args if isinstance(getattr(one, "value", None), bool)]
    assert not told


def _called(node):
    return getattr(getattr(node, "func", None), "id", None)
