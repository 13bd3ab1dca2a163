"""The demo corpus: six synthetic voices with digits, words and short phrases, for those with
no data at hand.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vqwave.data.manifest import Recording, write_manifest
from vqwave.data.sampler import counter_key
from vqwave.errors import UserInputError


@dataclass(frozen=True)
class Voice:
    """One speaker: an espeak-ng voice and variant, its gender, its usual pace (words a minute) and
    pitch (0 to 99).
    """

    name: str
    variant: str
    gender: str
    rate: int
    pitch: int


@dataclass(frozen=True)
class Line:
    """One text of every voice; the takes of a text differ a little in pace and pitch."""

    text: str
    take: int
    split: str


VOICES = (  # all without echo, and apart from each other in pitch or spectrum
    Voice("anna", "en-us+f1", "female", 160, 80),
    Voice("bruno", "en-us+m4", "male", 150, 25),
    Voice("clara", "en-us+steph", "female", 170, 45),
    Voice("duncan", "en-gb-scotland+m7", "male", 175, 40),
    Voice("emil", "en-us+klatt4", "male", 165, 75),
    Voice("fay", "en-us+Annie", "female", 180, 20),
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TAKES = 3
WORDS = {
    "train": (
        "yes",
        "no",
        "hello",
        "please",
        "water",
        "music",
        "summer",
        "yellow",
        "garden",
        "paper",
        "winter",
        "machine",
        "people",
        "kitchen",
        "river",
        "thousand",
    ),
    "valid": ("morning", "window"),
    "test": ("evening", "letter"),
}
PHRASES = {
    "train": (
        "good morning",
        "thank you very much",
        "open the door",
        "where are we now",
        "see you in the summer",
        "a glass of water",
        "we like this music",
        "turn to the left",
    ),
    "valid": ("open the window",),
    "test": ("see you this evening",),
}


def lines() -> list[Line]:
    """All texts with their splits.

    The last take of each digit, and complete words and phrases, are held out.
    """
    digits = [
        Line(
            digit,
            take,
            "train" if take < TAKES - 1 else "valid" if k < len(DIGITS) // 2 else "test",
        )
        for k, digit in enumerate(DIGITS)
        for take in range(TAKES)
    ]
    texts = [
        (split, text)
        for group in (WORDS, PHRASES)
        for split, part in group.items()
        for text in part
    ]
    return digits + [Line(text, 0, split) for split, text in texts]


def render_demo(
    folder: Path,
    voices: Sequence[Voice] = VOICES,
    texts: Sequence[Line] | None = None,
    *,
    quiet: bool = False,
) -> None:
    """Synthesize `texts` (None: all of `lines()`) with each voice into `folder`: wav files and a
    manifest.jsonl with phones.

    Bit for bit the same every time. Raises `UserInputError` where espeak-ng is not installed or
    does not start.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserInputError(
            "the demo corpus needs espeak-ng, which is not installed: pip install 'vqwave[demo]'"
        )
    plan = [(voice, line) for voice in voices for line in (lines() if texts is None else texts)]
    requests = [_request(folder, voice, line) for voice, line in plan]
    for path in {Path(str(request["path"])).parent for request in requests}:
        path.mkdir(parents=True, exist_ok=True)
    phones = _synthesize(requests, quiet=quiet)
    recordings = [
        Recording(
            path=Path(str(request["path"])),
            speaker=voice.name,
            id=Path(str(request["path"])).stem,
            text=line.text,
            split=line.split,
            labels={"gender": voice.gender},
            phones=phones[str(request["path"])],
        )
        for request, (voice, line) in zip(requests, plan, strict=True)
    ]
    write_manifest(folder / "manifest.jsonl", recordings)


def _request(folder: Path, voice: Voice, line: Line) -> dict[str, str | int]:
    key = counter_key("demo", voice.name, line.text, line.take)
    return {
        "path": str(
            folder / voice.name / f"{voice.name}-{line.text.replace(' ', '-')}-{line.take}.wav"
        ),
        "text": line.text,
        "voice": voice.variant,
        "rate": voice.rate + key % 31 - 15,
        "pitch": voice.pitch + key // 31 % 11 - 5,
        "seed": key % 2**31,
    }


def _synthesize(
    requests: Sequence[dict[str, str | int]], *, quiet: bool
) -> dict[str, tuple[tuple[int, str], ...]]:
    """Have another process synthesize the requests (`espeak.py`); the phones of each path."""
    program = [sys.executable, "-P", str(Path(__file__).with_name("espeak.py"))]
    phones = {}
    with tempfile.TemporaryFile("w+") as inputs, tempfile.TemporaryFile("w+") as complaints:
        inputs.writelines(json.dumps(request) + "\n" for request in requests)
        inputs.seek(0)
        with subprocess.Popen(
            program, stdin=inputs, stdout=subprocess.PIPE, stderr=complaints, text=True
        ) as process:
            answers = tqdm(
                process.stdout,
                desc="synthesize",
                total=len(requests),
                unit="file",
                disable=quiet,
                leave=False,
            )
            for line in answers:
                answer = json.loads(line)
                phones[answer["path"]] = tuple((start, label) for start, label in answer["phones"])
        complaints.seek(0)
        last = (complaints.read().strip().splitlines() or ["no message"])[-1]
    if process.returncode != 0 or len(phones) != len(requests):
        done = f"{len(phones)} of {len(requests)} texts"
        raise UserInputError(
            f"espeak-ng stopped with status {process.returncode} after {done}: {last}"
        )
    return phones
