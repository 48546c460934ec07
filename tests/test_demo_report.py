"""The demo opens its report for whoever sits before a screen, and for nobody else."""

import sys
import webbrowser

import pytest

from nnunetv2_xssr.commands import demo


@pytest.mark.parametrize(
    ("terminal", "display", "opened"), [(True, ":0", True), (True, "", False), (False, ":0", False), (False, "", False)]
)
def test_report_is_opened_on_a_screen_only(terminal, display, opened, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(webbrowser, "open", asked.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    page = tmp_path / "a report.html"
    demo.show(page)
    assert asked == ([page.as_uri()] if opened else [])
