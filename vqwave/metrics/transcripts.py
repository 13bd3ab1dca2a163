"""Transcripts in one spelling, so that word errors are errors of words and not of spelling.

One rule, for references and hypotheses alike:

1. Unicode is decomposed (NFKD) and accents are dropped; letters become lower case.
2. Numbers are written as words: cardinals, ordinals ("3rd"), decimals ("2.5"), and four digits from
   1100 to 1999 as years are read ("eighteen sixty four"). "$5", "&" and "%" become "five dollars",
   "and" and "percent".
3. "Mr.", "Mrs.", "Dr." and "St." are written out as mister, missus, doctor and saint, as
   LibriSpeech has them.
4. Apostrophes are removed ("don't" is "dont"), every other sign becomes a space, spaces are merged.
"""

from __future__ import annotations

import re
import unicodedata

# fmt: off
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
]
TENS = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
]
# fmt: on
SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
IRREGULAR = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint"}
NUMBER = re.compile(r"(\$?)(\d+(?:,\d{3})*)(?:\.(\d+))?(st|nd|rd|th)?(?![a-z\d])")
TITLE = re.compile(rf"\b({'|'.join(TITLES)})\b")


def normalise(text: str) -> str:
    """Text in the spelling of this module's rule.

    >>> normalise("Mr. Smith didn't pay $5 in 1864 -- the 21st, I think!")
    'mister smith didnt pay five dollars in eighteen sixty four the twenty first i think'
    """
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = text.lower().replace("&", " and ").replace("%", " percent ")
    text = NUMBER.sub(_number, text)
    text = re.sub("['\u2018\u2019\u02bc]", "", text)
    text = " ".join(re.sub(r"[^a-z0-9]+", " ", text).split())
    return TITLE.sub(lambda match: TITLES[match[1]], text)


def cardinal(n: int) -> str:
    """An integer below 10^12 in words; a longer one digit by digit.

    >>> cardinal(0), cardinal(342), cardinal(70001)
    ('zero', 'three hundred forty two', 'seventy thousand one')
    """
    if n >= 10**12:
        return " ".join(ONES[int(digit)] for digit in str(n))
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")
    size, name = next(scale for scale in SCALES if n >= scale[0])
    return f"{cardinal(n // size)} {name}" + (f" {cardinal(n % size)}" if n % size else "")


def ordinal(n: int) -> str:
    """
    >>> ordinal(3), ordinal(20), ordinal(112)
    ('third', 'twentieth', 'one hundred twelfth')
    """
    first, _, last = f" {cardinal(n)}".rpartition(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    else:
        last = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return f"{first} {last}".strip()


def year(n: int) -> str:
    """A number from 1100 to 1999 as years are read.

    >>> year(1864), year(1900), year(1907)
    ('eighteen sixty four', 'nineteen hundred', 'nineteen oh seven')
    """
    century, rest = divmod(n, 100)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def _number(match: re.Match[str]) -> str:
    dollars, integer, fraction, suffix = match.groups()
    n = int(integer.replace(",", ""))
    if suffix:
        words = ordinal(n)
    elif fraction:
        words = f"{cardinal(n)} point {' '.join(ONES[int(digit)] for digit in fraction)}"
    elif 1100 <= n <= 1999 and len(integer) == 4 and not dollars:
        words = year(n)
    else:
        words = cardinal(n)
    return f" {words}{' dollars' if dollars else ''} "
