"""Recordings of the package, to try the page on.

`juncture` and `toast` are sentences of LibriSpeech (CC BY 4.0; speakers 26 and 367), `seven` and
`three` digits of the Free Spoken Digit Dataset (CC BY-SA 4.0; theo and lucas). None of them was
trained on.
"""

from __future__ import annotations

from pathlib import Path

from vqwave.errors import UserInputError

FOLDER = Path(__file__).parent / "sounds"
TITLES = {
    "a sentence, a man": "juncture",
    "a sentence, a woman": "toast",
    "“seven”": "seven",
    "“three”": "three",
}


def plain(title: str) -> str:
    """A title without quotes, for a text that has its own."""
    return title.strip("“”")


def sample(title: str) -> Path:
    """The file of a title. Raises UserInputError."""
    if title not in TITLES:
        known = ", ".join(map(repr, TITLES))  # quoted: some have commas
        raise UserInputError(f"recording {title!r}: expected one of {known}")
    return FOLDER / f"{TITLES[title]}.ogg"
