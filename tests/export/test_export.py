"""Exported graphs say in onnxruntime what the model says in PyTorch, at every length; exported
folders load.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_models import DECODERS, ENCODER, LABELS, QUANTIZER, SIZES, WAVENET, changed, of, saved
from torch import Tensor

from vqwave import cli, export, load
from vqwave.errors import UserInputError
from vqwave.export import graphs
from vqwave.export.onnx_files import open_session, run_session
from vqwave.inference.model_files import stored_rows
from vqwave.inference.model_folder import load_trained
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import EncoderSpec, WaveformEncoderSpec
from vqwave.nn.quantize import (
    FSQuantizerSpec,
)
from vqwave.nn.wavenet import ContextSpec, StackSpec


@pytest.fixture
def runtime() -> None:
    pytest.importorskip("onnx", reason="graphs need onnx: pip install 'vqwave[export]'")
    pytest.importorskip(
        "onnxruntime", reason="graphs need onnxruntime: pip install 'vqwave[export]'"
    )


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_says_the_same_at_every_length(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", DECODERS[kind])
    checked = export.export_onnx(model, tmp_path / "student.onnx")
    assert list(checked.differences) == [frames for _, frames in export.CHECKED]
    assert checked.largest < 1e-5
    graph, spread = export.decoder_graph(load_trained(model), model), []
    session = open_session(checked.path)
    for batch, frames in ((1, 3), (5, 23)):
        inputs = graph.example(batch, frames)
        with torch.no_grad():
            expected = graph.reference(*inputs)
        found = run_session(session, graph.names, inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        spread.append(expected.std())
        for i, name in enumerate(graph.names):  # every input matters
            other = list(inputs)
            if name in ("codes", "pitch_codes", *LABELS):
                other[i] = (inputs[i] + 1) % (2 if name == "gender" else 3)
            else:
                other[i] = inputs[i] + 1.0
            assert not torch.equal(run_session(session, graph.names, other), found), name
    assert max(spread) > 0.05


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    "encoder", [ENCODER, WaveformEncoderSpec(strides=(4, 2), channels=6, blocks=1, latent_dim=4)]
)
@pytest.mark.parametrize("quantizer", [QUANTIZER, FSQuantizerSpec()])
def test_an_encoder_finds_the_same_codes(
    encoder: EncoderSpec,
    quantizer: object,
    tmp_path: Path,
    clear_frames: Callable[..., Tensor],
) -> None:
    model = saved(tmp_path / "model", of(encoder=encoder, quantizer=quantizer))
    checked = export.export_onnx(model, tmp_path / "encoder.onnx", "encoder")
    codec = load(model)
    wave = 0.1 * torch.randn(1, 64 * codec.model.hop, generator=torch.Generator().manual_seed(5))
    expected = codec.codes_of(wave[0])
    found = export.run_onnx(checked.path, ["wave"], [wave])[0]
    clear = clear_frames(codec.model.quantizer, codec.model.encoder(wave))
    assert clear.float().mean() > 0.9
    assert torch.equal(found[clear], expected[clear])
    assert len(expected.unique()) > 1


@pytest.mark.usefixtures("runtime")
def test_a_graph_says_what_it_is(tmp_path: Path) -> None:
    import onnx

    model, out = saved(tmp_path / "model", DECODERS["plain"]), tmp_path / "student.onnx"
    card, own = model / "config.json", {"choice": 1.0, "scale": 0.7, "voiced": 0.3}
    tree = json.loads(card.read_text())
    tree["about"]["temperature"] = own
    card.write_text(json.dumps(tree))
    checked = export.export_onnx(model, out)
    assert checked.inputs["codes"] == ["batch", 1, "frames"]
    assert checked.inputs["face"] == ["batch", 3]
    facts = {item.key: item.value for item in onnx.load(out).metadata_props}
    assert facts["base"] == "logistic"
    assert facts["sample_rate"] == "8000"
    assert json.loads(facts["temperatures"]) == own
    assert json.loads(facts["labels"]) == {name: LABELS[name] for name in ("speaker", "gender")}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["student.onnx"]


@pytest.mark.usefixtures("runtime")
def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = saved(tmp_path / "model", DECODERS["plain"]), tmp_path / "student.onnx"
    whole = graphs.one_pass

    def louder(*arguments: object, **settings: object) -> Tensor:
        return whole(*arguments, **settings) + 0.01

    monkeypatch.setattr(graphs, "one_pass", louder)
    with pytest.raises(UserInputError, match="away from PyTorch"):
        export.export_onnx(model, out)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("runtime")
def test_what_is_no_single_pass_is_refused_in_a_line(tmp_path: Path) -> None:
    context = StackSpec(**{**vars(SIZES), "context": ContextSpec(layers=1)})
    for i, (spec, part, words) in enumerate(
        [
            (of(WAVENET), "decoder", "WaveNet"),
            (WAVENET, "encoder", "without an encoder"),
            (of(changed(flow_type="maf")), "decoder", "maf"),
            (of(changed(network=context)), "decoder", "context"),
        ]
    ):
        model = saved(tmp_path / str(i), spec)
        with pytest.raises(UserInputError, match=words):
            export.export_onnx(model, tmp_path / "out.onnx", part)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("torch.onnx.export", "cannot become a graph"),
        ("vqwave.export.onnx_files.run_session", "does not run"),
    ],
)
def test_what_packages_raise_becomes_a_line(
    place: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their errors have no common kind."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("of rank 3\nand so on")

    model = saved(tmp_path / "model", DECODERS["plain"])
    monkeypatch.setattr(place, fail)
    with pytest.raises(UserInputError, match=rf"model: .*{words} \(of rank 3\)$"):
        export.export_onnx(model, tmp_path / "student.onnx")


@pytest.mark.usefixtures("runtime")
def test_without_speakers_a_melody_is_decoded_in_a_given_range(tmp_path: Path) -> None:
    spec = replace(
        DECODERS["melody"], decoder=changed(conditioner=ConditionerSpec(channels=4, categorical=()))
    )
    coder = load_trained(saved(tmp_path / "model", spec)).model
    graph = export.DecoderGraph(coder.decoder, coder, {}).eval()
    assert graph.names == ("codes", "pitch_codes", "noise", "voice_pitch")
    export.trace(graph, tmp_path / "student.onnx", "student")
    inputs = list(graph.example(2, 9))
    wave = export.run_onnx(tmp_path / "student.onnx", graph.names, inputs)
    with torch.no_grad():
        torch.testing.assert_close(wave, graph.reference(*inputs), rtol=0, atol=1e-5)
    inputs[-1] = inputs[-1] + 1.0
    assert not torch.equal(export.run_onnx(tmp_path / "student.onnx", graph.names, inputs), wave)


def test_without_the_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object()
    )
    with pytest.raises(
        UserInputError, match=r"onnxruntime is not installed: pip install 'vqwave\[export\]'"
    ):
        export.export_onnx(tmp_path, tmp_path / "out.onnx")


def test_a_folder_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = saved(tmp_path / "run" / "model", DECODERS["plain"]), tmp_path / "mine"
    cli.main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", str(out)])
    assert "vqvae" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "description.json",
    }
    before, after = load_trained(model).model.state_dict(), load(out).model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    page = (out / "README.md").read_text()
    assert page.startswith("---\nlibrary_name: vqwave\n")
    assert "| speaker | 3: a, b, c |" in page


def test_a_half_folder_takes_half_the_bytes(tmp_path: Path) -> None:
    model, out = saved(tmp_path / "run" / "model", DECODERS["plain"]), tmp_path / "mine"
    cli.main(
        ["export", str(tmp_path / "run"), "--format", "safetensors", "--half", "--out", str(out)]
    )
    before, after = load_trained(model).model.state_dict(), load_trained(out).model.state_dict()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        torch.testing.assert_close(after[name], value.half().to(value.dtype))
    described = stored_rows(out)
    assert described is not None
    assert load(out).fingerprint in described["codes"]  # of the rounded weights
    whole, half = ((folder / "model.safetensors").stat().st_size for folder in (model, out))
    assert half < 0.75 * whole  # the header with the names is as long
    modes = {path.stat().st_mode for path in out.iterdir()}
    assert len(modes) == 1, "who may read the card may read the weights"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "onnx", "--half", "--out", "x.onnx"], "32 bits"),
        (["--format", "onnx", "--out", "x.pt"], "ends in .onnx"),
        (["--format", "onnx", "--out", "no/where/x.onnx"], "no such folder"),
        (["--format", "safetensors", "--out", "there"], "there already"),
        (
            ["--format", "safetensors", "--part", "encoder", "--out", "new"],
            "a model folder has all parts",
        ),
    ],
)
def test_bad_options_get_a_line(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    saved(tmp_path / "model", DECODERS["plain"])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert words in refused("export", "model", *options)


@pytest.mark.usefixtures("runtime")
def test_the_command_prints_how_far_it_is_from_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = saved(tmp_path / "model", DECODERS["plain"]), tmp_path / "student.onnx"
    cli.main(["export", str(model), "--format", "onnx", "--out", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{out}: decoder, ")
    assert len([line for line in printed if "largest difference" in line]) == len(export.CHECKED)
