"""A new voice in a spectral decoder: its frames fit, conversions reach it, the known voices stay.

Latents are what is said and a trace of the speaker, as codes have it; frames are what is said,
coloured by the speaker.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.models import VQVAE
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder
from vqwave.training import nearest_frames as nearest
from vqwave.training import spectral_adaptation
from vqwave.training.coded_clips import CodedClips
from vqwave.training.nearest_frames import nearest_frames
from vqwave.training.spectral_adaptation import BATCH, SpectralAdaptation

CHANNELS, DIM, VOICES, FRAMES = 6, 5, 4, 12
NEW = 2  # its row lies among the known ones'
COLOURS = 2 * torch.randn(VOICES, CHANNELS, generator=torch.Generator().manual_seed(1))
WORDS = torch.randn(DIM - 1, CHANNELS, generator=torch.Generator().manual_seed(2))


def clips(speakers: list[int], count: int, seed: int, trace: float = 1.0) -> CodedClips:
    """count clips of each of these speakers, of which the second half of every third is padding;
    trace: of the new voice in its latents, how strong.
    """
    generator = torch.Generator().manual_seed(seed)
    speaker = torch.tensor(speakers).repeat_interleave(count)
    said = torch.randn(len(speaker), DIM - 1, FRAMES, generator=generator)
    left = trace * (speaker == NEW).float()[:, None, None].expand(-1, 1, FRAMES)
    frames = torch.einsum("bdf,dc->bcf", said, WORDS) + COLOURS[speaker][..., None]
    mask = torch.ones(len(speaker), FRAMES, dtype=torch.bool)
    mask[::3, FRAMES // 2 :] = False
    z = torch.cat([said, left], 1)
    return CodedClips(z, frames, mask, None, {"speaker": speaker})


def error(decoder: SpectralDecoder, x: CodedClips, speaker: int, wanted: Tensor) -> float:
    """Of the frames of clips in the voice of a speaker."""
    with torch.no_grad():
        frames = decoder(x.z, {"speaker": torch.full((len(x),), speaker)}, x.mask)
    return float((frames - wanted).abs().mean(1)[x.mask].mean())


def in_voice(x: CodedClips, speaker: int) -> Tensor:
    """The frames of what is said in clips, in another voice."""
    colours = COLOURS[x.labels["speaker"]][..., None]
    return x.frames - colours + COLOURS[speaker][:, None]


@pytest.fixture(scope="module")
def base() -> VQVAE:
    """A spectral decoder of all voices but the new one."""
    torch.manual_seed(0)
    frontend = nn.Module()
    frontend.channels = CHANNELS  # type: ignore[assignment]
    sizes = {"label_sizes": {"speaker": VOICES}, "vector_sizes": {}}
    decoder = SpectralDecoder(cast(Any, frontend), DIM, 1, channels=24, blocks=1, **sizes)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    x = clips([0, 1, 3], 40, 3)
    for _ in range(400):
        error = (decoder(x.z, x.labels, x.mask) - x.frames).abs().mean(1)[x.mask].mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    decoder.requires_grad_(requires_grad=False)
    with torch.no_grad():
        table = decoder.embeddings["speaker"].weight
        table[NEW] = table[[0, 1, 3]].mean(0)
    return cast(VQVAE, SimpleNamespace(spectral_decoder=decoder, pitch=lambda *_: None))


def adapted(
    base: VQVAE, monkeypatch: pytest.MonkeyPatch, steps: int = 150, trace: float = 1.0
) -> SpectralDecoder:
    torch.manual_seed(0)
    model = cast(VQVAE, SimpleNamespace(**{**vars(base)}))
    model.spectral_decoder = copy.deepcopy(base.spectral_decoder)
    monkeypatch.setattr(spectral_adaptation, "STEPS", steps)
    monkeypatch.setattr(spectral_adaptation, "FIRST", 100)
    SpectralAdaptation(model, NEW, clips([NEW], 40, 4, trace), clips([0, 1, 3], 20, 5), 0).fit()
    assert model.spectral_decoder is not None
    return model.spectral_decoder


def test_recordings_and_conversions_of_the_new_voice(
    base: VQVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings that were not trained on have its frames, and so have conversions to it, though
    the trace in the latents of its own recordings, which others lack, would explain it, too.
    """
    decoder, start = adapted(base, monkeypatch), base.spectral_decoder
    own, others = clips([NEW], 20, 6), clips([0, 1, 3], 20, 7)
    assert start is not None
    assert error(decoder, own, NEW, own.frames) < 0.5 * error(start, own, NEW, own.frames)
    wanted = in_voice(others, NEW)
    assert error(decoder, others, NEW, wanted) < 0.6 * error(start, others, NEW, wanted)


@pytest.mark.parametrize(("term", "weight"), [("CONVERSION", 0.2), ("NEAREST", 1.0)])
def test_either_term_of_conversions_brings_them_nearer(
    term: str, weight: float, base: VQVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where codes have so much of the new voice that its recordings need no label."""
    others, errors = clips([0, 1, 3], 20, 7), []
    for name in ("CONVERSION", "NEAREST"):
        monkeypatch.setattr(spectral_adaptation, name, 0.0)
    for given in (weight, 0.0):
        monkeypatch.setattr(spectral_adaptation, term, given)
        decoder = adapted(base, monkeypatch, trace=6.0)
        errors.append(error(decoder, others, NEW, in_voice(others, NEW)))
    assert errors[0] < 0.9 * errors[1]


def test_known_voices_stay(base: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows bit for bit, their frames nearly: of their recordings, and of the new voice's."""
    decoder, start = adapted(base, monkeypatch), base.spectral_decoder
    assert start is not None
    before, after = (each.embeddings["speaker"].weight for each in (start, decoder))
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.equal(before[NEW], after[NEW])
    x = clips([0, 1, 2, 3], 20, 8)
    for speaker in (0, 1, 3):
        with torch.no_grad():
            kept = start(x.z, {"speaker": torch.full((len(x),), speaker)}, x.mask)
        moved = error(decoder, x, NEW, kept)
        assert error(decoder, x, speaker, kept) < 0.2 * moved


def test_each_term(base: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first nothing has moved: the loss is the errors of recordings and conversions, and the
    weighted cross-entropy.
    """
    monkeypatch.setattr(spectral_adaptation, "NOISE", 0.0)
    torch.manual_seed(0)
    own, known = clips([NEW], BATCH, 4), clips([0, 1, 3], BATCH, 5)
    adaptation = SpectralAdaptation(base, NEW, own, known, 0)
    known = known.at(torch.arange(BATCH))
    expected = error(adaptation.decoder, own, NEW, own.frames)
    frames = nearest_frames(known, own)
    expected += spectral_adaptation.NEAREST * error(adaptation.decoder, known, NEW, frames)
    loss = float(adaptation._loss(own, known, frames).detach())
    classified = (loss - expected) / spectral_adaptation.CONVERSION
    with torch.no_grad():
        frames = adaptation._frames(adaptation.decoder, known, own.labels)
        clear = adaptation.classifier(frames, known.mask)["speaker"]
        wanted = float(F.cross_entropy(clear, own.labels["speaker"]))
    assert classified == pytest.approx(wanted, abs=1e-4)


def test_the_nearest_frames_are_a_search_by_hand() -> None:
    """In float64, of real latents alone, two frames a latent."""
    voice, others = clips([NEW], 3, 4), clips([0, 1], 2, 5)
    frames = torch.stack([voice.frames, voice.frames + 1], -1).flatten(2)
    voice = replace(voice, frames=frames)
    found = nearest_frames(others, voice).double()

    def around(x: CodedClips, clip: int, latent: int) -> Tensor:
        columns = []
        for offset in range(-4, 5):
            n = latent + offset
            real = 0 <= n < FRAMES and bool(x.mask[clip, n])
            column = x.z[clip, :, n] if real else torch.zeros(DIM)
            columns.append(column.double() / (1 + abs(offset)))
        joined = torch.cat(columns)
        return joined / joined.norm().clamp_min(1e-12)

    places = [(c, n) for c in range(len(voice)) for n in range(FRAMES) if voice.mask[c, n]]
    bank = torch.stack([around(voice, *place) for place in places])
    for clip in range(len(others)):
        for latent in range(FRAMES):
            best = (bank @ around(others, clip, latent)).topk(4).indices.tolist()
            taken = [voice.frames[places[k][0], :, 2 * places[k][1] :][:, :2] for k in best]
            expected = torch.stack(taken).double().mean(0)
            torch.testing.assert_close(found[clip, :, 2 * latent : 2 * latent + 2], expected)
    assert found.shape == (len(others), CHANNELS, 2 * FRAMES)


def test_what_a_voice_said_itself_has_its_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COUNT", 1)
    voice = clips([NEW], 5, 4)
    found = nearest_frames(voice, voice)
    real = voice.mask[:, None].expand_as(found)
    assert torch.equal(found[real], voice.frames[real])


def test_it_depends_on_its_seed_alone(base: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    once, again = (adapted(base, monkeypatch, steps=5).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_it_is_left_without_gradients(base: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = adapted(base, monkeypatch, steps=2)
    assert not any(p.requires_grad or p.grad is not None for p in decoder.parameters())
