"""The notebook of docs/ runs from beginning to end, and collects what it picked."""

import nbclient
import nbformat
import pytest
from making import CHECKOUT


def notebook():
    return nbformat.read(CHECKOUT / "docs" / "tutorial.ipynb", as_version=4)


def test_notebook_is_kept_without_output():
    assert not [cell for cell in notebook().cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run = notebook()
    nbclient.NotebookClient(run, timeout=900, kernel_name="python3").execute(cwd=tmp_path)
    printed = "".join(output.get("text", "") for cell in run.cells for output in cell.get("outputs", ()))
    assert "6 of 60 cases have a label; 5 folds" in printed
