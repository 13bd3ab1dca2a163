"""A model folder and codes of format 1, before settings took the literature's names, go on working.

`tests/format_1` holds a tiny VQ-VAE with a melody, every one of whose settings has another name by
now, a recording, its codes, and what was decoded from them then.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import vqwave
from vqwave.audio import read
from vqwave.codes import load_codes
from vqwave.config.renamed import new_card
from vqwave.decode.sampling import Sampling
from vqwave.inference.model_folder import load_trained, read_card, save_trained

OLD = Path(__file__).resolve().parents[1] / "format_1"
FINGERPRINT = "28125a171666b5bc"


def test_an_old_folder_encodes_and_decodes_as_it_did() -> None:
    assert json.loads((OLD / "model" / "config.json").read_text())["format"] == 1
    model = vqwave.load(OLD / "model")
    assert model.fingerprint == FINGERPRINT
    old, new = load_codes(OLD / "codes.vqw"), model.encode(*read(OLD / "recording.wav"), "a")
    assert torch.equal(new.codes, old.codes)
    assert torch.equal(new.pitch.codes, old.pitch.codes)
    wave = model.decode(old, "b", sampling=Sampling(seed=3, backend="reference"))
    expected = np.load(OLD / "decoded.npy")
    np.testing.assert_allclose(wave[: len(expected)].numpy(), expected, atol=1e-3)


def test_entries_of_cards_keep_their_meaning_under_other_names() -> None:
    about = {"speaks": False, "unheard": {"speaker": ["b"]}, "steps": 3}
    names = {"decoder_trained": False, "untrained_labels": {"speaker": ["b"]}, "steps": 3}
    assert new_card({"about": about, "format": 2}) == {"about": names, "format": 2}
    card = read_card(OLD / "model")[0]
    assert card.decodes
    untrained = replace(card, about=names)
    assert not untrained.decodes
    assert untrained.trained("speaker") == [x for x in card.labels["speaker"] if x != "b"]
    assert untrained.untrained("speaker") == ["b"]


def test_it_is_written_in_the_present_format(tmp_path: Path) -> None:
    loaded = load_trained(OLD / "model")
    save_trained(tmp_path / "model", loaded.model, loaded.card)
    text = (tmp_path / "model" / "config.json").read_text()
    assert json.loads(text)["format"] == 2
    old_keys = ("hears", "readout", "jitter", "cycle", "size", "location_unit", "speaks")
    for old in (f'"{key}"' for key in old_keys):
        assert old not in text
    again = vqwave.load(tmp_path / "model")
    assert again.fingerprint == FINGERPRINT
    assert torch.equal(
        again.encode(*read(OLD / "recording.wav")).codes, load_codes(OLD / "codes.vqw").codes
    )
