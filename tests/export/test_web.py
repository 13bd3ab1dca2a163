"""A page's folder: what is in it, what is refused, and that its graphs compute what the package
does.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_models import DECODERS, WAVENET, changed, of, saved

from vqwave import cli, load
from vqwave.codes import CodeSequence
from vqwave.decode.sampling import Sampling, Temperatures
from vqwave.errors import UserInputError
from vqwave.export.graphs import decoder_graph, pitch_graph
from vqwave.export.onnx_files import run_onnx, write_graph
from vqwave.export.web import export_site, runtime
from vqwave.inference.model_folder import load_trained
from vqwave.models import VQVAE, VQVAESpec
from vqwave.models.pitch import SEMITONE
from vqwave.nn.condition import ConditionerSpec
from vqwave.rng.philox import uniforms

FILES = {"encoder.onnx", "decoder.onnx", "index.html", "MODEL.md", runtime.SCRIPT, runtime.BINARY}
TEMPERATURES = Temperatures(choice=1.0, scale=0.8, voiced=0.2)


@pytest.fixture(autouse=True)
def packages() -> None:
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"graphs need {name}: pip install 'vqwave[export]'")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What stands for onnxruntime-web."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    (folder / runtime.SCRIPT).write_text("export {};")
    (folder / runtime.BINARY).write_bytes(b"\0asm")
    return folder.parent


def with_labels(*names: str) -> VQVAESpec:
    """With melody and linear prediction, and a decoder that is conditioned on these labels."""
    spec = DECODERS["melody and prediction"]
    assert isinstance(spec, VQVAESpec)
    conditioner = ConditionerSpec(channels=4, categorical=names)
    return replace(spec, decoder=replace(spec.decoder, conditioner=conditioner))


def model_of(folder: Path, spec: VQVAESpec, **about: object) -> Path:
    """A saved model whose card says `about`."""
    path = saved(folder, spec) / "config.json"
    card = json.loads(path.read_text())
    card["about"] |= about
    path.write_text(json.dumps(card))
    return folder


def facts_of(site: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="model">(.*?)</script>',
        (site / "index.html").read_text(),
    )
    assert found is not None
    return json.loads(found[1])


def test_the_folder_has_all_that_the_page_needs(
    tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = {"speaker": ["b"], "gender": ["f"]}
    model = model_of(tmp_path / "model", with_labels("speaker"), untrained_labels=untrained)
    out = tmp_path / "site"
    options = ["--format", "web", "--out", str(out), "--runtime", str(package)]
    cli.main(["export", str(model), *options])
    printed = capsys.readouterr().out.splitlines()

    there = {path.name for path in out.iterdir()}
    assert there - {"f0.LICENSE"} == FILES | {"pitch.onnx", "f0.onnx"}
    facts, speech = facts_of(out), load(model)
    assert facts["sizes"] == {path.name: path.stat().st_size for path in out.iterdir()}
    assert f"{sum(facts['sizes'].values()) / 1e6:.1f} MB" in printed[0]
    assert printed[-1] == f"python -m http.server --directory {out}"
    assert facts["labels"] == {"speaker": [[0, "a"], [2, "c"]]}  # without what was never trained
    assert facts["codec"] == speech.fingerprint
    assert facts["melody"]["voices"] == pytest.approx(torch.tensor([[0, 0.5], [0.4, 1], [0.8, 2]]))
    page = (out / "index.html").read_text()
    assert not re.findall(r"https?://(?!localhost)", page)  # no request leaves the folder
    assert page.count("<script") == 2
    assert "</script" not in facts["name"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_name_cannot_end_the_script(tmp_path: Path, package: Path) -> None:
    """Names of labels are any text."""
    model = model_of(tmp_path / "model", of(changed(conditioner=ConditionerSpec(channels=4))))
    path = model / "config.json"
    card = json.loads(path.read_text())
    card["labels"]["speaker"] = ["</script><script>alert(1)</script>", "'\"&", "c"]
    path.write_text(json.dumps(card))
    export_site(model, tmp_path / "site", package)
    page = (tmp_path / "site" / "index.html").read_text()
    assert page.count("<script") == 2
    assert facts_of(tmp_path / "site")["labels"]["speaker"][0][1] == card["labels"]["speaker"][0]


@pytest.mark.parametrize("strength", [0.0, 0.75])
def test_the_graph_with_temperatures_decodes_as_the_model(strength: float, tmp_path: Path) -> None:
    """The range of a voice moved, unit noise of a seed in: the waveform of `decode`, filtered."""
    about = {"temperature": TEMPERATURES._asdict(), "postfilter": strength}
    model = model_of(tmp_path / "model", with_labels("speaker"), **about)
    speech, loaded = load(model), load_trained(model)
    melody = speech.kind.melody
    assert melody is not None
    generator, frames = torch.Generator().manual_seed(2), 24
    header = speech.header(None, frames * speech.header().hop)
    wave = 0.1 * torch.randn(header.samples, generator=generator)
    coded = speech.encode_prepared(wave)
    assert isinstance(coded, CodeSequence)
    assert coded.pitch is not None
    pitch = torch.randint(0, melody.codec.size, coded.pitch.codes.shape, generator=generator)
    coded = replace(coded, pitch=replace(coded.pitch, codes=pitch))
    expected = speech.decode(
        coded, "c", shift_semitones=3.0, seed=5, sampling=Sampling(backend="reference")
    )

    noise = speech.decoder.noise(uniforms(5, torch.zeros(1, dtype=torch.int64), 0, header.samples))
    mean, deviation = melody.voices[2].tolist()
    given = {
        "codes": coded.codes[None],
        "pitch_codes": pitch[None],
        "noise": noise,
        "speaker": torch.tensor([2]),
        "voice_pitch": torch.tensor([[mean + 3 * SEMITONE, deviation]]),
    }
    graph = decoder_graph(loaded, model, free_range=True)
    assert set(graph.names) == set(given)
    write_graph(graph, tmp_path / "decoder.onnx", model, "decoder", speech.sample_rate)
    inputs = [given[name] for name in graph.names]
    wave = run_onnx(tmp_path / "decoder.onnx", graph.names, inputs)[0]
    torch.testing.assert_close(wave, expected, rtol=0, atol=1e-5)
    other = Sampling(backend="reference", postfilter=0.75 - strength)
    filtered = speech.decode(coded, "c", shift_semitones=3.0, seed=5, sampling=other)
    assert (filtered - expected).abs().max() > 1e-3
    graph.temperatures = Temperatures(1.0, 0.8, 0.8)  # voiced frames have their own
    with torch.no_grad():
        assert not torch.allclose(graph.reference(*inputs)[0], expected, atol=1e-3)


def test_the_graph_of_pitch_codes_is_the_codec(tmp_path: Path) -> None:
    """Also where the last code is not full of real frames."""
    model = load_trained(saved(tmp_path / "model", with_labels("speaker")))
    assert isinstance(model.model, VQVAE)
    melody = model.model.melody
    assert melody is not None
    generator = torch.Generator().manual_seed(0)
    # latents of other melodies as the codebook, so that there are several codes
    contours = torch.randn(1, 2, 8 * melody.ratio * 5, generator=generator)
    with torch.no_grad():
        z = melody.codec.encoder(contours, torch.tensor([contours.shape[-1]]))[0].T
        book = melody.codec.quantizer.codebook
        book._put(torch.ones(book.size, dtype=torch.bool), z[: book.size])
    graph, out = pitch_graph(model, "model"), tmp_path / "pitch.onnx"
    write_graph(graph, out, "model", "pitch", 8000)
    seen = set()
    for frames in (1, melody.ratio, 7 * melody.ratio + 1, 9 * melody.ratio - 1):
        voiced = (torch.rand(1, frames, generator=generator) > 0.3).float()
        f0 = 0.5 * torch.randn(1, frames, generator=generator)
        pitch, voice = torch.stack([voiced * f0, voiced], 1), torch.tensor([[0.1, 0.3]])
        expected = melody.encode(pitch, {"voice_pitch": voice})
        padded = torch.nn.functional.pad(pitch, (0, -frames % melody.ratio))
        found = run_onnx(out, graph.names, [padded, torch.tensor([frames]), voice])
        assert torch.equal(found, expected), frames
        seen |= set(expected.flatten().tolist())
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [(DECODERS["plain"], "conditioned on face"), (of(WAVENET), "WaveNet"), (WAVENET, "student")],
)
def test_a_decoder_that_a_page_cannot_compute_is_refused(
    spec: VQVAESpec, words: str, tmp_path: Path, package: Path
) -> None:
    model = saved(tmp_path / "model", spec)
    with pytest.raises(UserInputError, match=words):
        export_site(model, tmp_path / "site", package)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "web", "--out", "full"], "there already"),
        (["--format", "web", "--out", "no/where/site"], "no such folder"),
        (["--format", "web", "--part", "encoder", "--out", "site"], "a page has all parts"),
        (["--format", "web", "--half", "--out", "site"], "32 bits"),
        (["--format", "web", "--runtime", "full", "--out", "site"], "full: no ort"),
        (["--format", "onnx", "--runtime", "full", "--out", "x.onnx"], "with --format web"),
        (["--format", "onnx", "--part", "pitch", "--out", "x.onnx"], "without pitch codes"),
        (["--format", "web", "--out", "site"], "npm is not installed"),
    ],
)
def test_bad_options_get_a_line(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    saved(tmp_path / "model", of(changed(conditioner=ConditionerSpec(channels=4))))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert words in refused("export", "model", *options)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "full"}


def npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for npm, first on the path."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def archive(path: Path) -> str:
    """A package with the two files -> its SHA-512."""
    with tarfile.open(path, "w:gz") as files:
        for name in (runtime.SCRIPT, runtime.BINARY, "other.js"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            files.addfile(member, io.BytesIO(name.encode()))
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_npm_fetches_the_release_whose_bytes_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = archive(tmp_path / "package.tgz")
    npm(tmp_path / "bin", f'echo "$@" > {tmp_path}/said; cp {tmp_path}/package.tgz .', monkeypatch)
    out = tmp_path / "site"
    out.mkdir()
    with pytest.raises(UserInputError, match="other bytes than that release"):
        runtime.copy_runtime(out)
    assert list(out.iterdir()) == []
    monkeypatch.setattr(runtime, "SHA512", digest)
    runtime.copy_runtime(out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        name: name for name in (runtime.SCRIPT, runtime.BINARY)
    }
    assert f"pack onnxruntime-web@{runtime.VERSION}" in (tmp_path / "said").read_text()


def test_what_npm_reports_becomes_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "npm error code ENOTFOUND\\nnpm error syscall getaddrinfo\\n"
    npm(tmp_path / "bin", f"printf '{said}' >&2; exit 1", monkeypatch)
    with pytest.raises(
        UserInputError, match=r"npm cannot fetch .* \(code ENOTFOUND\); expected a network"
    ):
        runtime.copy_runtime(tmp_path)
