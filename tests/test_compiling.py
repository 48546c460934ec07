"""Compiled loops start wherever the package does, with a folder for what is compiled or without."""

import pytest
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
