"""Names of speakers, labels, utterances and runs as file names.

A name is any text. A file name made of it stays in its folder, is short enough for every file
system, is no name that a system reserves, and differs from that of another name also where a file
system does not tell upper from lower case.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from vqwave.terminal import CONTROL

LONGEST = 200  # bytes, of the 255 that file systems take: what is being written has a longer name
SEPARATORS = re.compile("/")
FORBIDDEN = re.compile(r'[\\<>:"|?*\t]')  # by some systems
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

Parts = str | tuple[str, ...]


def file_name(name: Parts, suffix: str = "") -> str:
    """The file name of one name, or of several parts that dots join; see `file_names`.

    >>> file_name(("ann/1", "original"), ".wav")
    'ann_1.original.wav'
    """
    return file_names([name], suffix)[name]


def file_names(names: Iterable[Parts], suffix: str = "") -> dict[Parts, str]:
    """Each name's file name, all different.

    A separator becomes `_`. Where more has to be changed, and where two would be one file, a hash
    of the name follows. So the order of the names does not matter.
    """
    distinct = list(dict.fromkeys(names))
    plain = {name: _joined(name) for name in distinct}
    safe = {name: _safe(text, LONGEST - len(suffix.encode())) for name, text in plain.items()}
    kept = {name: SEPARATORS.sub("_", text) == safe[name] for name, text in plain.items()}
    shared = Counter(_folded(text) for text in safe.values())
    return {
        name: (
            safe[name]
            if kept[name] and shared[_folded(safe[name])] == 1
            else f"{_cut(safe[name], LONGEST - len(suffix.encode()) - 9)}-{_hash(name)}"
        )
        + suffix
        for name in distinct
    }


def _joined(name: Parts) -> str:
    return name if isinstance(name, str) else ".".join(name)


def _safe(text: str, longest: int) -> str:
    for unfit in (SEPARATORS, FORBIDDEN, CONTROL):
        text = unfit.sub("_", text)
    text = re.sub(r"^[. ]|[. ]$", "_", text) or "_"
    return _cut(f"_{text}" if RESERVED.match(text) else text, longest)


def _cut(text: str, longest: int) -> str:
    """At most so many bytes, whole characters."""
    return text.encode()[:longest].decode(errors="ignore")


def _folded(text: str) -> str:
    """The same for two names that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _hash(name: Parts) -> str:
    parts = (name,) if isinstance(name, str) else name
    data = "\0".join(parts).encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=4).hexdigest()
