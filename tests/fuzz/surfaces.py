"""What vqwave reads, each with a small valid example, hostile variants of it, and its reader."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from fuzz.models import LABELS, RATE, coded, model
from fuzz.mutations import any_bytes, json_lines, json_text, yaml_text
from fuzz.streams import kernel_state, kernel_streams, stream_state
from fuzz.tables import HAS_DATASETS, saved_data_set
from fuzz.voices import singing_model, vectors
from vqwave import audio, config
from vqwave.audio.streaming import Recording, WavReader
from vqwave.codes import CodeReader, CodeSequence, Header
from vqwave.codes.file_format import VERSION_1, to_bytes
from vqwave.codes.stream_format import CodeWriter
from vqwave.config.specs import Tree
from vqwave.data import Corpus
from vqwave.data.arrays import read_array
from vqwave.data.external_formats import lhotse, webdataset
from vqwave.data.manifest import Rejected, read_manifest
from vqwave.errors import UserInputError, under
from vqwave.evaluation.readme_table import section
from vqwave.evaluation.resume import read_report
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import VQVAESpec
from vqwave.report.run import read_run
from vqwave.sweep import plan
from vqwave.sweep.journal import JOURNAL, open_study
from vqwave.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from vqwave.training.identity import check
from vqwave.training.tracking import metrics_rows


@dataclass(frozen=True)
class Surface:
    """`attempt(folder, rng)` writes a hostile input into an empty folder and reads it.

    It raises UserInputError for what is refused. `tests`: how many inputs the tests take; `once`:
    done before any of them, without a limit of time, such as to compile kernels.
    """

    name: str
    attempt: Callable[[Path, random.Random], None]
    tests: int = 300
    once: Callable[[], object] = lambda: None


# ---------------------------------------------------------------- codes


def vqw(folder: Path, rng: random.Random) -> None:
    path, it = folder / "x.vqw", coded()
    how = rng.randrange(4)
    if how == 0:  # version 1
        tree = {k: v for k, v in vars(Header.of(it)).items() if k not in ("payload", "pitch")}
        text = json_text(tree, rng)
        body = VERSION_1 + struct.pack("<I", len(text)) + text + Header.of(it).pack(it.block)
        data = body + struct.pack("<I", zlib.crc32(body))
    elif how == 1:  # a stream
        file = io.BytesIO()
        writer = CodeWriter(file, Header.of(it))
        for part in it.codes.split(4, 1):
            writer.write(part)
        writer.finish(it.samples)
        data = any_bytes(file.getvalue(), rng)
    else:  # the right checksum after all
        body = any_bytes(to_bytes(it)[:-4], rng)
        data = body + struct.pack("<I", zlib.crc32(body))
    path.write_bytes(data)
    read = model_codes(path)
    with under(str(path)):
        model().check(read)
    with path.open("rb") as pipe:
        for _ in CodeReader(pipe, str(path)):
            pass


def model_codes(path: Path) -> CodeSequence:
    from vqwave.codes import load_codes

    return load_codes(path)


# ---------------------------------------------------------------- models


@cache
def saved_model(folder: Path) -> dict[str, bytes]:
    save_trained(folder, model().model, model().card)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def model_folder(folder: Path, rng: random.Random, *, home: Path) -> None:
    files = dict(saved_model(home))
    if rng.random() < 0.8:
        files["config.json"] = json_text(json.loads(files["config.json"]), rng)
    else:
        files["model.safetensors"] = any_bytes(files["model.safetensors"], rng)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    loaded = SpeechModel(*_parts(folder))
    repr(loaded)
    assert all(value.isfinite().all() for value in loaded.model.state_dict().values())


def _parts(folder: Path) -> tuple[Any, ModelCard]:
    loaded = load_trained(folder)
    return loaded.model, loaded.card


# ---------------------------------------------------------------- runs


CLIP = {"utterance": "a", "kind": "original", "path": "a.wav", "speaker": "ann", "text": "hm"}
REPORT = {
    "corpus": "x", "split": "test", "utterances": 3, "model": "m", "temperature": {"choice": 0.9},
    "rows": [{
        "key": "nll", "group": "nll", "measure": "bits", "unit": "bits", "better": "lower",
        "figures": {"model": {"value": 3.0, "low": 2.0, "high": 4.0, "count": 3, "what": ""}},
    }],
    "matrices": [{
        "key": "words", "title": "t", "row_label": "r", "column_label": "c", "rows": ["a"],
        "columns": ["b", "c"], "values": [[1.0, None]],
    }],
    "tracks": [{"utterance": "a", "step": 0.01, "curves": {"recording": [100.0, 0.0]}}],
    "finished": {"nll": ["nll"]}, "provenance": {"models": {"model": "ab"}},
}  # fmt: skip
RUN: dict[str, Any] = {
    "config.yaml": {"experiment": "vqvae", "run": "runs/x", "optim": {"lr": 0.1}, "teacher": None},
    "metrics.jsonl": [{"step": k, "seconds": 0.5 * k, "valid/bits": 3.0 - k} for k in range(3)],
    "evaluation.json": {
        "split": "valid", "step": 2, "nll": {"unit": "bits", "model": 3.0, "baselines": {"u": 8.0}},
        "codes": {"size": 4, "perplexity": 2.0, "used": 3, "counts": [[1, 2, 0, 3]]},
        "pitch": {"model": {"error": 1.0}},
    },
    "metrics.json": REPORT,
    "samples/index.json": {"rows": [CLIP], "step": 2},
    "model/config.json": {
        "kind": "vqvae", "sample_rate": RATE, "labels": LABELS,
        "about": {"corpus": "x", "parameters": {"total": 3}, "hop": 16, "bit_rate": 100.0},
    },
}  # fmt: skip
IDENTITY = {"data.corpus": {"level": ["-23 dBFS", "ab"], "excerpts": ["3", "cd"]}}


def hostile(name: str, tree: Tree, rng: random.Random) -> bytes:
    if name.endswith(".yaml"):
        return yaml_text(tree, rng)
    return json_lines(tree, rng) if name.endswith(".jsonl") else json_text(tree, rng)


def run_folder(folder: Path, rng: random.Random) -> None:
    bad = rng.choice(sorted(RUN))
    for name, tree in RUN.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        rows = tree if name.endswith(".jsonl") else [tree]
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(hostile(name, tree, rng) if name == bad else text)
    (folder / "samples" / "a.wav").write_bytes(b"")
    read_run(folder)
    metrics_rows(folder / "metrics.jsonl")
    if rng.random() < 0.7:
        return
    (folder / "identity.json").write_bytes(json_text(IDENTITY, rng))
    from vqwave.training.identity import Source

    check(folder, {"data.corpus": Source(folder, {"level": ("-23 dBFS", "ab")})})


def evaluation(folder: Path, rng: random.Random) -> None:
    (folder / "x.json").write_bytes(json_text(REPORT, rng))
    report = read_report(folder / "x.json")
    section([report])


@cache
def saved_checkpoint(folder: Path) -> dict[str, bytes]:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    state = {"w": weight.detach()}
    progress = {"step": 3, "seconds": 1.0, "running": [{"total": [1.0, 2]}], "rows": 1, "steps": 9}
    save_checkpoint(folder, 3, Checkpoint(state, state, optimizer.state_dict(), progress))
    return {path.name: path.read_bytes() for path in (folder / "step-00000003").iterdir()}


def checkpoint(folder: Path, rng: random.Random, *, home: Path) -> None:
    files = dict(saved_checkpoint(home))
    name = rng.choice(("progress.json", "progress.json", "SHA256.json", "optimizer.safetensors"))
    if name.endswith(".json"):
        files[name] = json_text(json.loads(files[name]), rng)
    else:
        files[name] = any_bytes(files[name], rng)
    if name != "SHA256.json":
        digests = {n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n != "SHA256.json"}
        files["SHA256.json"] = json.dumps(digests).encode()
    (folder / "step-00000003").mkdir()
    for each, data in files.items():
        (folder / "step-00000003" / each).write_bytes(data)
    found, notes = newest_checkpoint(folder)
    if found is None:
        raise UserInputError(notes[0])
    assert isinstance(found.progress["step"], int)


# ---------------------------------------------------------------- corpora


HEADER = {
    "format": 1, "name": "x", "sample_rate": RATE, "labels": {**LABELS, "gender": ["f", "m"]},
    "level_db": -23.0, "source": "made up", "sha256": {"shard-00000.i16": "ab"},
    "pitch": {"hop": 80, "range": [60.0, 400.0]},
}  # fmt: skip
INDEX = [
    {
        "id": f"{who}{k}", "shard": 0, "offset": 800 * k, "frames": 800, "speaker": who,
        "text": "hm", "split": "train", "labels": {"speaker": who, "gender": sex},
        "phones": [[0, "h"], [400, "m"]],
    }
    for k, (who, sex) in enumerate((("ann", "f"), ("bob", "m"), ("ann", "f")))
]  # fmt: skip


def corpus(folder: Path, rng: random.Random) -> None:
    header = rng.random() < 0.5
    (folder / "corpus.json").write_bytes(
        json_text(HEADER, rng) if header else json.dumps(HEADER).encode()
    )
    rows = "".join(json.dumps(row) + "\n" for row in INDEX).encode()
    (folder / "index.jsonl").write_bytes(rows if header else json_lines(INDEX, rng))
    (folder / "shard-00000.i16").write_bytes(bytes(2 * 2400))
    (folder / "pitch.f32").write_bytes(bytes(4 * 30))
    if rng.random() < 0.1:
        (folder / "vectors").mkdir()
        (folder / "vectors" / "speaker_vector.npy").write_bytes(array_file(folder, rng))
    it = Corpus.open(folder)
    repr(it), it.vocabulary, it.splits
    for row in range(len(it.utterances)):
        it.conditions(row), it.read(row, 0, 10)
        if it.pitch is not None:
            it.f0(row)


def manifest(folder: Path, rng: random.Random) -> None:
    rows: list[Any] = [
        {"path": f"{k}.wav", "speaker": "ann", "start": k, "frames": 9, "sample_rate": RATE,
         "text": "x", "split": "train", "id": f"i{k}", "phones": [[0, "a"], [3, "b"]],
         "accent": "none"}
        for k in range(3)
    ]  # fmt: skip
    if rng.random() < 0.5:
        path = folder / "manifest.jsonl"
        path.write_bytes(json_lines(rows, rng))
    else:
        path, text = folder / "manifest.csv", io.StringIO()
        table = csv.DictWriter(
            text, [name for name in rows[0] if name != "phones"], extrasaction="ignore"
        )
        table.writeheader()
        table.writerows(rows)
        path.write_bytes(any_bytes(text.getvalue().encode(), rng))
    for recording in read_manifest(path):
        assert 0 <= recording.start < 1 << 53


def lhotse_folder(folder: Path, rng: random.Random) -> None:
    def sound(k: int) -> dict[str, Any]:
        source = {"type": "file", "channels": [0], "source": f"{k}.wav"}
        return {
            "id": f"r{k}",
            "sources": [source],
            "sampling_rate": RATE,
            "num_samples": 8000,
            "duration": 1.0,
        }

    def said(k: int) -> dict[str, Any]:
        return {
            "id": f"s{k}", "recording_id": f"r{k}", "start": 0.1, "duration": 0.5, "channel": 0,
            "text": "hm", "speaker": "ann", "custom": {"accent": "x", "snr": 3.0},
            "alignment": {"phone": [["h", 0.1, 0.2], ["m", 0.3, 0.2]]},
        }  # fmt: skip

    cuts = [
        {"id": f"c{k}", "type": "MonoCut", "start": 0.0, "duration": 1.0, "channel": 0,
         "recording": sound(k), "supervisions": [said(k)]}
        for k in range(2)
    ]  # fmt: skip
    if rng.random() < 0.5:
        files = {"cuts_train.jsonl": json_lines(cuts, rng)}
    else:
        sounds, texts = [sound(k) for k in range(2)], [said(k) for k in range(2)]
        first = rng.random() < 0.5
        plain = [
            "".join(json.dumps(row) + "\n" for row in rows).encode() for rows in (sounds, texts)
        ]
        files = {
            "recordings.jsonl": json_lines(sounds, rng) if first else plain[0],
            "supervisions.jsonl": plain[1] if first else json_lines(texts, rng),
        }
    packed = rng.random() < 0.5
    for name, data in files.items():
        content = gzip.compress(data) if packed else data
        if packed and rng.random() < 0.2:
            content = any_bytes(content, rng)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(content)
    list(lhotse(folder))


def shards(folder: Path, rng: random.Random) -> None:
    file = io.BytesIO()
    about = {"speaker": "ann", "text": "hm", "split": "train", "gender": "f"}
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in (
            ("a.wav", bytes(100)),
            ("a.json", json_text(about, rng)),
            ("a.cls", b"7"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = file.getvalue()
    (folder / "x.tar").write_bytes(any_bytes(data, rng) if rng.random() < 0.5 else data)
    for row in webdataset(folder):
        if not isinstance(row, Rejected):
            assert {type(text) for text in (row.id, row.speaker, row.text)} == {str}
            with row.sound() as path:
                audio.rate_of(path)


def array_file(folder: Path, rng: random.Random) -> bytes:
    """A hostile .npy file."""
    np.save(folder / "x.npy", np.ones((3, 5), np.float32))
    data = (folder / "x.npy").read_bytes()
    if rng.random() < 0.5:
        shape = rng.choice(
            ("(10**12, 5)", "(1" + "0" * 12 + ", 5)", "(-1, 5)", "(3,)", "(" * 300, "(3, 5, )")
        )
        kind = rng.choice(
            ("<f4", "<c8", "|O", "<U9", "|b1", "<i8", "<M8[s]", "[('a', '<f4')]", ">f2")
        )
        text = (
            f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        )
        return data[:8] + struct.pack("<H", len(text)) + text.encode() + data[128:]
    return any_bytes(data, rng)


def frames(folder: Path, rng: random.Random) -> None:
    (folder / "x.npy").write_bytes(array_file(folder, rng))
    assert np.isfinite(read_array(folder / "x.npy")).all()


# ---------------------------------------------------------------- settings


SWEEP = {
    "program": "experiments/vqvae.py", "method": "random", "run_cap": 4, "name": "x",
    "metric": {"name": "valid/bits", "goal": "minimize"},
    "parameters": {
        "optim.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        "seed": {"values": [1, 2]}, "train.steps": {"min": 1, "max": 9},
        "x": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "z": {"distribution": "normal", "mu": 0.0, "sigma": 1.0}, "w": {"value": 3},
        "p": {"parameters": {"q": {"values": [1, 2], "probabilities": [0.5, 0.5]}}},
    },
    "early_terminate": {"type": "hyperband", "min_iter": 3},
}  # fmt: skip


def sweep(folder: Path, rng: random.Random) -> None:
    tree = {**SWEEP, "method": rng.choice(("random", "grid", "bayes"))}
    if tree["method"] == "grid":
        tree["parameters"] = {
            k: v for k, v in SWEEP["parameters"].items() if k in ("seed", "train.steps", "x")
        }
    (folder / "x.yaml").write_bytes(yaml_text(tree, rng))
    read = plan.read(folder / "x.yaml")
    for values in read.trials(3, 0)[:3]:
        read.words(values or {})
    json.dumps(read.tree, default=str)


@cache
def saved_journal(folder: Path) -> bytes:
    """Of a sweep of two trials, the second not finished."""
    folder.mkdir()
    study = open_study(folder, minimize=True, hyperband=None)
    for number in range(2):
        trial = study.ask()
        trial.set_user_attr("values", {"seed": number})
        trial.suggest_float("x", 0.0, 1.0)
        if number == 0:
            study.tell(trial, 1.5)
    return (folder / JOURNAL).read_bytes()


def journal(folder: Path, rng: random.Random, *, home: Path) -> None:
    rows = [json.loads(line) for line in saved_journal(home).splitlines()]
    (folder / JOURNAL).write_bytes(json_lines(rows, rng))
    for trial in open_study(folder, minimize=True, hyperband=None).get_trials(deepcopy=False):
        repr(trial)


def settings(folder: Path, rng: random.Random) -> None:
    tree = config.to_tree(model().card.spec)
    (folder / "x.yaml").write_bytes(yaml_text(tree, rng))
    words = _words(rng)
    with under(str(folder) if words else "settings"):
        config.parse(VQVAESpec, ["--config", str(folder / "x.yaml"), *words])


def _words(rng: random.Random) -> list[str]:
    """An override at times."""
    texts = (
        "[" * 900,
        "{" * 900,
        "{a: &a [*a]}",
        "{a.b: 1}",
        "!!int x",
        "nan",
        "9" * 5000,
        "{? [a] : 1}",
    )
    return [f"quantizer={rng.choice(texts)}"] if rng.random() < 0.2 else []


# ---------------------------------------------------------------- sound


@cache
def sounds() -> dict[str, bytes]:
    wave, found = np.sin(np.arange(2000) / 9).astype(np.float32) / 2, {}
    for kind, channels in (("WAV", 1), ("WAV", 2), ("FLAC", 1), ("OGG", 1), ("AIFF", 1)):
        file = io.BytesIO()
        data = wave if channels == 1 else np.stack([wave, wave / 2], 1)
        soundfile.write(file, data, RATE, format=kind)
        found[f"{channels}.{kind.lower()}"] = file.getvalue()
    return found


def sound(folder: Path, rng: random.Random) -> None:
    name = rng.choice(sorted(sounds()))
    data, path = bytearray(sounds()[name]), folder / name
    if rng.random() < 0.5:  # within the header
        at = rng.randrange(min(60, len(data)))
        word = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01\0\0\0", rng.randbytes(4)))
        data[at : at + 4] = word
    else:
        data = bytearray(any_bytes(bytes(data), rng))
    path.write_bytes(data)
    audio.rate_of(path)
    errors = []
    for read in (_pipe, _whole, _pieces):
        try:
            read(path)
        except UserInputError as error:
            errors.append(error)
    if errors:
        raise errors[-1]


def _pipe(path: Path) -> None:
    if path.suffix == ".wav":
        with path.open("rb") as file:
            for _ in WavReader(file, str(path)):
                pass


def _whole(path: Path) -> None:
    wave, rate = audio.read(path)
    assert np.isfinite(wave).all()
    if len(wave) / rate < 100:
        audio.resample(wave, rate, RATE)


def _pieces(path: Path) -> None:
    for _ in Recording.open(path).pieces():
        pass


def surfaces(home: Path) -> list[Surface]:
    """All of them that can be read here; `home`: an empty folder, for what is made once."""
    data_sets = Surface("data set", partial(saved_data_set, home=home / "table"), tests=40)
    return [
        Surface("codes", vqw),
        Surface("model", partial(model_folder, home=home / "model"), tests=60),
        Surface("singing model", partial(singing_model, home=home / "singer"), tests=40),
        Surface("vectors", vectors, tests=150),
        Surface("stream", stream_state, tests=60),
        Surface("stream of kernels", kernel_state, tests=40, once=kernel_streams),
        Surface("run", run_folder, tests=150),
        Surface("checkpoint", partial(checkpoint, home=home / "checkpoints"), tests=100),
        Surface("evaluation", evaluation),
        Surface("corpus", corpus),
        Surface("manifest", manifest),
        Surface("lhotse", lhotse_folder),
        Surface("shards", shards),
        Surface("frames", frames),
        Surface("sweep", sweep, tests=100),
        Surface("journal", partial(journal, home=home / "journal"), tests=20),
        Surface("settings", settings, tests=60),
        Surface("sound", sound),
        *([data_sets] if HAS_DATASETS else []),
    ]
