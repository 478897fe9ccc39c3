"""Text of a user as it is, on pages, in pictures and on a terminal."""

from __future__ import annotations

import re

#: What XML cannot hold, what moves a cursor or ends a line, and what changes the direction of other text.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def visible(text: str, lines: bool = False) -> str:
    """The text with a sign for each control character, or all but line ends and tabs.

    U+0000 to U+001F become their pictures, such as U+240A for the end of a line; others U+FFFD.
    """

    def sign(found: re.Match[str]) -> str:
        code = ord(found[0])
        if lines and found[0] in "\n\t":
            return found[0]
        return (
            chr(0x2400 + code)
            if code < 0x20
            else "\N{SYMBOL FOR DELETE}"
            if code == 0x7F
            else "\N{REPLACEMENT CHARACTER}"
        )

    return _HIDDEN.sub(sign, text)


def printable(text: str) -> str:
    r"""The text for a terminal, which may lack the signs: with escapes such as ``\x1b``.

    Line ends and tabs stay.
    """
    return _HIDDEN.sub(
        lambda found: found[0] if found[0] in "\n\t" else found[0].encode("unicode_escape").decode(), text
    )
