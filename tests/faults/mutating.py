"""Plain values of another shape, one change at a time, and a study to put them into."""

import copy
import json
from contextlib import contextmanager

OTHERS = (None, True, -1, 10**22, 1.5, float("nan"), "", "text", "../x", [], ["a"], {}, {"a": [None]}, [[[{}]]])
FEW = 2  # of the items of a list, or of the names of a dictionary with many: the rest are like them


def mutations(content, *, others=OTHERS):
    """Words for every change, and a copy of the content with it.

    Every key is removed, and every value, the whole content included, is replaced by others.
    """
    for other in others:
        if not _same(content, other):
            yield f"all: {_short(other)}", other
    for place in _places(content):
        *_, key = place
        if isinstance(key, str):
            changed = copy.deepcopy(content)
            del _parent(changed, place)[key]
            yield f"{_words(place)} removed", changed
        for other in others:
            if not _same(_parent(content, place)[key], other):
                changed = copy.deepcopy(content)
                _parent(changed, place)[key] = other
                yield f"{_words(place)}: {_short(other)}", changed


def _places(content, above=()):
    keys = range(len(content)) if isinstance(content, list) else list(content) if isinstance(content, dict) else ()
    alike = isinstance(content, list) or len({type(content[key]) for key in keys}) == 1
    for key in list(keys)[:FEW] if alike and len(keys) > 8 * FEW or isinstance(content, list) else keys:
        yield (*above, key)
        yield from _places(content[key], (*above, key))


def _parent(content, place):
    for key in place[:-1]:
        content = content[key]
    return content


def _same(one, other):
    return type(one) is type(other) and one == other


def _words(place):
    return ".".join(map(str, place))


def _short(value):
    return json.dumps(value)[:20]


@contextmanager
def kept(folder):
    """Put back every file below a folder in the end, as it was, and remove those that came."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        yield
    finally:
        for path in folder.rglob("*"):
            if not path.is_dir() and path not in before:
                path.unlink()
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def outcome(capsys, main, argv):
    """None if a command ended well (1: verify has found a change) or with code 2 and one sentence, else what it did."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if ": error: " in line]
    if code in (0, 1) and not errors or code == 2 and len(errors) == 1 and "Traceback" not in printed.err:
        return None
    return f"exit code {code}, {len(errors)} sentences: {printed.err[-300:]}"
