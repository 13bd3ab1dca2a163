"""Models over a hub, both ways: what is loaded again gives the same codes and waves, bit for bit;
what cannot be had is one line.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_hub import TOKEN, Repository, running
from small_models import stack

import vqwave
from vqwave.cli import main
from vqwave.errors import Note, UserInputError
from vqwave.features import LogMelSpec
from vqwave.inference import hub
from vqwave.inference.hub import HubAddress
from vqwave.inference.model_files import own_folder
from vqwave.inference.model_folder import Loaded, ModelCard, load_trained, save_trained
from vqwave.inference.standalone_folder import Facts, model_page
from vqwave.models import StudentSpec, VQVAESpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec

TESTS = Path(__file__).parents[1]
SPEC = VQVAESpec(
    encoder=FrameEncoderSpec(features=LogMelSpec(bands=8, fmax=4000), channels=8, latent_dim=4),
    quantizer=EMAQuantizerSpec(codebook_size=8),
    decoder=StudentSpec(
        flows=(2,),
        network=stack(4),
        conditioner=ConditionerSpec(channels=4),
    ),
)
FIGURES = {"corpus": "digits", "split": "test", "rows": []}
ROWS = [("words.accuracy", "words recognised", "%", 98.33333), ("nll.bits", "bits", "", None)]


def row(key: str, measure: str, unit: str, value: float | None) -> dict[str, Any]:
    return {"key": key, "measure": measure, "unit": unit, "figures": {"model": {"value": value}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, and metrics.json next to it."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    card = ModelCard(sample_rate=8000, labels={"speaker": ["ann"]}, spec=SPEC, about={})
    save_trained(root / "model", card.build(), card)
    (root / "metrics.json").write_text(json.dumps(FIGURES | {"rows": [row(*r) for r in ROWS]}))
    return root / "model"


def session(model: Path, home: Path, url: str) -> dict[str, Any]:
    """What tests/hub_session.py finds with this hub."""
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, TESTS / "hub_session.py", model, model.parent / "metrics.json"]
    done = subprocess.run(
        command, env=plain | settings, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    with running() as server:
        files = {path.name: path.read_bytes() for path in model.iterdir()}
        for name, content in {
            "ann/pickle": {"config.json": files["config.json"], "pytorch_model.bin": b"bytes"},
            "ann/large": files,
        }.items():
            server.repositories[name] = Repository()
            server.repositories[name].commit("main", content)
        server.sizes["ann/large/model.safetensors"] = 1 << 40
        results = session(model, home, server.url)
        results["requests"] = list(server.requests)
        results["tree"] = sorted(server.repositories["ann/tiny"].commits.popitem()[1])
    return results


def test_what_is_pushed_is_loaded_bit_for_bit(found: dict[str, Any]) -> None:
    for key in ("pushed", "pinned", "path", "branch", "other commit"):
        assert found[key] is True, key
    assert found["tree"] == ["README.md", "config.json", "metrics.json", "model.safetensors"]


def test_only_the_named_files_are_fetched(found: dict[str, Any]) -> None:
    assert found["files"] == ["README.md", "config.json", "model.safetensors"]
    assert not any("pytorch_model.bin" in each for each in found["requests"])
    assert "no model in it, expected config.json and model.safetensors" in found["pickle"]


def test_what_is_too_large_is_not_fetched(found: dict[str, Any]) -> None:
    assert found["too large"] == (
        "hf://ann/large: model.safetensors: 1,099,511,627,776 bytes, expected at most"
        " 17,179,869,184"
    )
    asked = [each for each in found["requests"] if "ann/large" in each and "safetensors" in each]
    assert asked
    assert all(each.startswith("HEAD") for each in asked)


def test_the_cache_is_enough_without_a_hub(found: dict[str, Any]) -> None:
    assert found["cached"] is True
    assert found["not cached"] == (
        "hf://ann/other: not in the cache, and the hub cannot be reached"
    )


def test_the_page_is_a_card_of_the_hub(found: dict[str, Any]) -> None:
    """As huggingface_hub's own `ModelCard` reads it."""
    assert (found["license"], found["datasets"]) == ("cc0-1.0", ["ann/digits"])
    assert found["figures"] == {"words.accuracy": 98.33}
    front = yaml.safe_load(found["page"].split("---")[1])
    assert front["pipeline_tag"] == "audio-to-audio"
    assert front["library_name"] == "vqwave"
    assert front["model-index"][0]["name"] == "tiny"
    assert front["model-index"][0]["results"][0]["dataset"]["split"] == "test"
    assert 'vqwave.load("hf://ann/tiny")' in found["page"]


def test_what_cannot_be_had_is_one_line(found: dict[str, Any]) -> None:
    assert found["missing"].startswith("hf://ann/nothing: no such repository, or a private one")
    assert found["revision"].startswith("hf://ann/tiny@never: no such revision")
    assert found["no commit"] == (
        "hf://ann: neither a model folder nor a name of a hub, expected hf://USER/REPO[@REVISION]"
    )
    assert not any("\n" in str(found[key]) for key in ("missing", "revision", "pickle"))


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hf://ann/tiny", "ann/tiny", None),
        ("hf:/ann/tiny@v1.0", "ann/tiny", "v1.0"),
        ("ann/t.i-n_y@refs/pr/1", "ann/t.i-n_y", "refs/pr/1"),
    ],
)
def test_addresses(text: str, repo: str, revision: str | None) -> None:
    assert HubAddress.parse(text) == HubAddress(repo, revision)


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://ann", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b@../x", "hf://a/b c"],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(UserInputError, match="expected"):
        HubAddress.parse(text)
    with pytest.raises(UserInputError, match="too, expected one of them"):
        HubAddress.parse("a/b@c", "d")


def test_a_command_takes_an_address(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda address: model)
    main(["info", "hf://ann/tiny"])
    assert "hf://ann/tiny: vqvae" in capsys.readouterr().out


def test_a_model_of_a_hub_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the cache could be."""
    monkeypatch.setattr(hub, "fetch", lambda address: pytest.fail("fetched"))
    with pytest.raises(UserInputError, match="hf://ann/tiny: a model of a hub, expected a folder"):
        own_folder("hf://ann/tiny")


def test_a_file_that_the_hub_does_not_send_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that it has said before not to have."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def file(_: object, name: str, *__: object, **___: object) -> Path:
        if name.startswith("voices"):
            raise LocalEntryNotFoundError("the hub is not reached")
        return tmp_path / name

    monkeypatch.setattr(hub, "_file", file)
    address = HubAddress.parse("hf://ann/tiny")
    cached: list[object] = [None]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: cached[0])
    with pytest.warns(Note, match=r"ann/tiny: voices.safetensors cannot be fetched now"):
        assert hub.fetch(address) == tmp_path
    cached[0] = object()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hub.fetch(address) == tmp_path


def test_a_hub_that_takes_no_connection_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not half a minute; a proxy is left to answer for itself."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert hub._is_reached()
    assert not hub._is_reached()
    monkeypatch.setattr(hub, "getproxies", lambda: {"http": "http://127.0.0.1:9"})
    assert hub._is_reached()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub._is_reached()


def test_weights_of_16_bits_have_no_figures(model: Path, tmp_path: Path) -> None:
    measured = shutil.copytree(model, tmp_path / "measured")
    shutil.copy(model.parent / "metrics.json", measured)
    for words, figures in (([], True), (["--half"], False)):
        out = tmp_path / ("half" if words else "whole")
        main(["export", str(measured), "--format", "safetensors", "--out", str(out), *words])
        assert (out / "metrics.json").exists() == figures
        page = (out / "README.md").read_text()
        assert ("name: whole" in page) == figures
        assert ("model-index" in page) == figures


def test_the_current_folder_is_not_replaced(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserInputError, match=r"^\.: the current folder, expected the name of a new"
    ):
        vqwave.load(model).save_pretrained(".")
    assert tmp_path.is_dir()
    Path("elsewhere").mkdir()
    Path("link").symlink_to("elsewhere")
    vqwave.load(model).save_pretrained("link")
    assert Path("link").is_symlink()
    assert Path("elsewhere", "model.safetensors").is_file()


def test_a_saved_model_is_the_model(model: Path, tmp_path: Path) -> None:
    first = vqwave.load(model)
    first.save_pretrained(tmp_path / "copy", license="mit")
    again = vqwave.SpeechModel.from_pretrained(tmp_path / "copy")
    assert again.fingerprint == first.fingerprint
    files = [(folder / "model.safetensors").read_bytes() for folder in (model, tmp_path / "copy")]
    assert files[0] == files[1]
    with pytest.raises(UserInputError, match="copy: there already, expected a new or empty"):
        first.save_pretrained(tmp_path / "copy")
    with pytest.raises(UserInputError, match="license: 'by me', expected a name as the hub has it"):
        first.save_pretrained(tmp_path / "other", license="by me")
    with pytest.raises(UserInputError, match=r"none\.json: no such file, expected what `vqwave"):
        first.save_pretrained(tmp_path / "other", metrics=tmp_path / "none.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_a_page_keeps_what_it_had(model: Path, tmp_path: Path) -> None:
    """The licence of a shipped model goes with it, and so does a page that somebody wrote."""
    shipped = load_trained("fsdd")
    page = model_page(shipped, Facts(), "hf://ann/digits")
    front, body = page.split("---\n\n", 1)
    written = (shipped.folder / "README.md").read_text().split("---\n\n", 1)[1]
    assert "license: cc-by-sa-4.0" in front
    assert "- name: digits\n" in front
    assert body == written
    loaded = Loaded(shipped.model, shipped.card, tmp_path)
    (tmp_path / "README.md").write_text("---\na: &a [1, 1]\nb: *a\n---\n# Mine\n")
    assert model_page(loaded, Facts(license="mit"), "x").endswith("\n---\n\n# Mine\n")
    (tmp_path / "README.md").write_text("---\n- a list\n---\n")
    with pytest.raises(UserInputError, match=r"README\.md: expected front matter, found a list"):
        model_page(loaded, Facts(), "x")


def test_the_prior_of_a_model_is_saved_with_it(tmp_path: Path) -> None:
    prior = vqwave.load("fsdd-prior")
    prior.save_pretrained(tmp_path / "prior")
    again = vqwave.load(tmp_path / "prior")
    assert again.prior is not None
    assert again.prior.fingerprint == prior.prior.fingerprint
