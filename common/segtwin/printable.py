"""Names that come from outside, as text: what they hold never moves a terminal's cursor, changes
its colours or the order of its letters."""

from __future__ import annotations


def printable(text: object) -> str:
    """Text as it is, but for what is no letter to be seen (control characters, line ends, tabs,
    escape sequences, controls of the direction, half of a surrogate pair): that is written out.
    """
    text = str(text)
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    )


def json_text(text: str) -> str:
    """JSON whose strings hold nothing but what can be seen, and which any encoding can write: the
    rest is written as JSON's own \\uXXXX."""
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(one if one.isprintable() or one == "\n" else escaped(one) for one in text)


def escaped(one: str) -> str:
    """A character as JSON writes it in ASCII: two halves above U+FFFF."""
    number = ord(one)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
