"""What cases, datasets, domains, groups and selections may be called, everywhere."""

import re
import unicodedata
from collections.abc import Callable, Iterable

from nnunetv2_xssr.errors import UserError

_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)  # of Windows, with any ending
_LONGEST = 200  # bytes: file systems take 255, and endings follow


def refuse_names(where: str, names: Iterable[str], *, check: Callable[[str], str] | None = None) -> None:
    """Raise `UserError` if one of the names that were found ``where`` cannot be used.

    Parameters
    ----------
    where : str
    names : iterable of str
    check : callable, optional
        `check_file_name` by default, or `check_line`.
    """
    for name in names:
        try:
            (check or check_file_name)(name)
        except ValueError as error:
            raise UserError(f"{where} is called {name[:100]!r}, but a name {error}; rename it") from None


def check_trimmed(text: str) -> str:
    """The text, if it is `check_line`'s and no space is around it, which tables and people do not see.

    Raises
    ------
    ValueError
        If not; it says what the text must be.
    """
    if check_line(text) != text.strip():
        raise ValueError("must not begin or end with a space")
    return text


def check_file_name(name: str) -> str:
    """The name, if a file can be called so on every system, and no slice of a case is.

    Slices are called by their volume and, behind a slash, by their place.

    Raises
    ------
    ValueError
        If not; it says what the name must be.
    """
    check_trimmed(name)
    if name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError("must be the name of a file, without / and \\")
    if _RESERVED.fullmatch(name):
        raise ValueError("must not be a name that Windows keeps for a device")
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"must have at most {_LONGEST} bytes")
    return name


def check_line(text: str) -> str:
    """The text, if it is one line that is not empty, without control characters and in UTF-8.

    Raises
    ------
    ValueError
        If not; it says what the text must be.
    """
    if not text:
        raise ValueError("must not be empty")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("must be one line of text in UTF-8 without control characters")
    return text
