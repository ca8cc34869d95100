"""Text of strangers, made fit to print."""

from __future__ import annotations

import unicodedata


def plain(text: object) -> str:
    """Text of a stranger on one line, what could steer a terminal or turn the reading direction replaced by "?"."""
    return "".join("?" if unicodedata.category(sign)[0] == "C" else sign for sign in " ".join(str(text).split()))
