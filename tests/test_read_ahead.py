"""Images read in threads: in order, a few at a time, and what one of them raises is its own."""

import threading

import pytest

from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr("nnunetv2.configuration.default_num_processes", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 8)


def test_order_is_kept_whatever_finishes_first():
    second_is_read = threading.Event()

    def read(case):
        if case == 0:
            assert second_is_read.wait(10)  # case 1 is read beside it, or this fails
        if case == 1:
            second_is_read.set()
        return case**2

    with read_ahead(read, range(20)) as futures:
        assert [future.result() for future in futures] == [case**2 for case in range(20)]


def test_broken_case_raises_at_its_place_and_the_others_are_read():
    def read(case):
        if case in (2, 5):
            raise BrokenImage(f"case {case}")
        return case

    with read_ahead(read, range(7)) as futures:
        outcomes = [future.exception() or future.result() for future in futures]
    assert [str(outcome) for outcome in outcomes] == ["0", "1", "case 2", "3", "4", "case 5", "6"]


def test_only_a_few_cases_are_held_and_none_is_begun_once_the_block_has_ended():
    begun, before = [], threading.active_count()
    with pytest.raises(KeyError), read_ahead(begun.append, range(100)) as futures:
        next(futures).result()
        raise KeyError("the reader has left")
    assert 1 <= len(begun) <= 4  # one per thread, and one for the case that was taken
    assert threading.active_count() == before


def test_no_case():
    with read_ahead(lambda case: case, []) as futures:
        assert list(futures) == []


@pytest.mark.parametrize(("sizes", "most"), [((0.3,) * 9, 1), ((0.1,) * 9, 3), ((0.2, 0.2, 0.4, 0.1, 9, 0.1, 0.1), 2)])
def test_cases_take_half_of_the_memory_at_most(monkeypatch, sizes, most):
    """A case that is larger is read alone; with three threads, three are read at once where that fits."""
    monkeypatch.setattr("nnunetv2_xssr.images.read_ahead.available_memory", lambda: 1000)
    reading, seen, changed = [], [], threading.Lock()

    def read(i):
        with changed:
            reading.append(i)
            seen.append(list(reading))
        threading.Event().wait(0.02)
        with changed:
            reading.remove(i)
        return i

    with read_ahead(read, range(len(sizes)), memory=lambda i: int(1000 * sizes[i])) as futures:
        assert [future.result() for future in futures] == list(range(len(sizes)))
    assert max(map(len, seen)) == most
    assert all(len(together) == 1 or sum(sizes[i] for i in together) <= 0.501 for together in seen)
