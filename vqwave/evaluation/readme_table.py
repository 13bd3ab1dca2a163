"""The table of results in a README: from what evaluations have written, put between two
markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqwave import parsing
from vqwave.atomic_files import write_text
from vqwave.errors import UserInputError
from vqwave.evaluation.result import EvaluationReport
from vqwave.evaluation.table import markdown_table

BEGIN, END = "<!-- results: `make results` writes what stands here -->", "<!-- end of results -->"
NAMES = {"vqvae": "VQ-VAE (AR)", "prior": "prior", "wavenet": "WaveNet"}
SHOWN = (  # the rows of the table, in this order; the JSON has all
    "nll.bits",
    "nll.shuffled_codes",
    "nll.shuffled_frames",
    "nll.shuffled_speakers",
    "codes.nominal_rate",
    "codes.entropy_rate",
    "codes.perplexity",
    "codes.dead",
    "words.reconstruction",
    "speakers.reconstruction",
    "speakers.babble",
    "conversion.content",
    "conversion.target",
    "conversion.source",
    "wer.words",
    "wer.characters",
    "similarity.voice",
    "mos.overall",
    "converted.words",
    "converted.target",
    "converted.source",
    "converted.nearer",
    "converted.f0",
    "converted.mos",
    "spectral.mcd",
    "spectral.lsd",
    "pitch.f0_error",
    "pitch.correlation",
    "pitch.voicing",
    "perceptual.pesq",
    "perceptual.stoi",
    "abx.z_e.within",
    "abx.z_e.across",
    "abx.codes.within",
    "abx.codes.across",
    "map.accuracy",
    "probes.words.codes.linear",
    "probes.words.codes.network",
    "probes.speakers.codes.linear",
    "probes.speakers.codes.network",
    "prior.bits",
    "prior.rate",
    "say.text",
    "say.speaker",
    "say.both",
)


def section(reports: Sequence[EvaluationReport]) -> str:
    """Markdown: for each evaluation a line of what it is, its table, and what could not be
    measured.
    """
    parts = []
    for report in reports:
        rows = {row.key: row for row in report.rows}
        shown = [rows[key] for key in SHOWN if key in rows]
        shown += [row for row in report.rows if row.key.startswith("conversion.gender_")]
        student = f" and `{report.student}`" if report.student else ""
        about = (
            f"**`{report.model}`**{student}, {report.corpus}, {report.split} split:"
            f" {report.utterances:,} utterances, {report.seconds:,.0f} s,"
            f" {report.sampling_text}."
        )
        parts += [
            about,
            "",
            markdown_table(shown, {"model": NAMES.get(report.kind, report.kind)}),
            "",
        ]
        notes = [f"{row.measure}: {row.note}." for row in shown if row.note]
        notes += [f"Not measured: {name} ({why})." for name, why in report.skipped.items()]
        parts += [" ".join(dict.fromkeys(notes)), ""] if notes else []
    return "\n".join(parts).rstrip()


def put(readme: Path, text: str) -> None:
    """Replace what stands between the markers, completely or not at all.

    Raises `UserInputError` for a file without them.
    """
    old = parsing.read_text(readme, f"a text file with the line {BEGIN}")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserInputError(
            f"{readme}: expected the lines {BEGIN} and {END} around the place of the table"
        )
    write_text(readme, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
