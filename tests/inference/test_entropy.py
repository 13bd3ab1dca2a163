"""Entropy coding with a prior: without loss, near the prior's own cross-entropy, and refused where
the prior is another.
"""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqwave.cli import main
from vqwave.codes import (
    CodeSequence,
    from_bytes,
    load_codes,
    load_header,
    save_codes,
    seal,
    to_bytes,
)
from vqwave.codes.file_format import header_of
from vqwave.decode.code_sampling import sample_codes
from vqwave.errors import UserInputError
from vqwave.inference.code_prior import CodePrior
from vqwave.inference.entropy_coding import PRECISION, compress, decompress, frequencies
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.models.prior import CodeNetwork, PriorSpec
from vqwave.models.vqvae import VQVAESpec
from vqwave.models.wavenet import WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import Stack, StackSpec

SPEAKERS = ["ann", "bob"]


def prior(books: int = 1, size: int = 40, *, seed: int = 0) -> CodePrior:
    """A prior of random weights that is sure of what it says: few bits a code."""
    torch.manual_seed(seed)
    stack = Stack(
        StackSpec(
            layers=4,
            dilation_cycle=4,
            residual_channels=12,
            gate_channels=12,
            skip_channels=12,
            hidden_channels=16,
        ),
        size + 1,
        6,
    )
    conditioner = ConditionerSpec(channels=6).build(0, 1, {"speaker": [*SPEAKERS, "untold"]})
    embedding, place = torch.nn.Embedding(books * (size + 1), 12), torch.nn.Embedding(books, 12)
    stack.out.weight.data.mul_(12)
    conditioner.embeddings["speaker"].weight.data.mul_(4)
    network = CodeNetwork(embedding, place, stack, conditioner, label_dropout=0.1)
    return CodePrior(
        network.exact(), {"speaker": SPEAKERS}, codec="c0dec", sample_rate=8000, hop=160
    )


def coded(codes: torch.Tensor, size: int = 40, speaker: str | None = None) -> CodeSequence:
    return CodeSequence(codes, 8000, 160, 160 * codes.shape[1], size, "c0dec", speaker)


@pytest.fixture(autouse=True)
def _constriction() -> None:
    pytest.importorskip("constriction")


@pytest.mark.parametrize("size", [1, 2, 40, 600])
@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("frames", [0, 1, 23])
def test_round_trip_of_codes_that_the_prior_did_not_expect(
    size: int, books: int, frames: int
) -> None:
    it, coder = (
        coded(
            torch.randint(size, (books, frames), generator=torch.Generator().manual_seed(frames)),
            size,
        ),
        prior(books, size),
    )
    data = to_bytes(it, coder)
    back = from_bytes(data, "x.vqw", coder)
    assert torch.equal(back.codes, it.codes)
    assert {k: v for k, v in vars(back).items() if k != "codes"} == {
        k: v for k, v in vars(it).items() if k != "codes"
    }


@pytest.mark.parametrize("books", [1, 2])
@pytest.mark.parametrize("speaker", ["bob", "nobody", None])
def test_the_size_is_the_cross_entropy(books: int, speaker: str | None, tmp_path: Path) -> None:
    """Within 2 % and 64 bits; the codes were drawn from the prior, so that it saves bits; `bits` is
    one teacher-forced pass.
    """
    coder = prior(books)
    it = replace(coder.draw(3.0, labels={"speaker": "bob"}, seed=1)[0], speaker=speaker)
    save_codes(tmp_path / "a.vqw", it, coder)
    assert torch.equal(load_codes(tmp_path / "a.vqw", coder).codes, it.codes)
    header, least = load_header(tmp_path / "a.vqw"), coder.bits(it)
    assert least <= 8 * header.payload + 1e-6
    assert 8 * header.payload <= 1.02 * least + 64
    assert 8 * header.payload < 0.9 * header.packed_bits
    assert header.bit_rate == pytest.approx(8 * header.payload / 3.0)


def test_a_speaker_who_is_noted_saves_bits() -> None:
    coder = prior()
    bob = {"speaker": torch.tensor([1])}
    ((codes, _),) = sample_codes(coder.network, bob, 150, streams=torch.arange(1), stop=False)
    it = coded(codes, speaker="bob")
    assert coder.bits(it) < coder.bits(it.as_speaker("ann"))
    assert len(coder.encode(it)) < len(coder.encode(it.as_speaker("ann")))


def test_frequencies_are_whole_and_sum_to_a_power_of_two() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, sharp in ((2, 1.0), (257, 30.0), (65537, 5.0)):
        log_p = (sharp * torch.randn(size, generator=generator, dtype=torch.float64)).log_softmax(0)
        log_p[-1] = -torch.inf
        log_p = log_p.log_softmax(0)
        found = frequencies(log_p)
        assert found.sum() == 2**PRECISION
        assert found.min() >= 1
        p = log_p.exp().numpy()
        assert (
            np.abs(found / 2**PRECISION - p * (1 - size / 2**PRECISION)).max()
            < (2 + size) / 2**PRECISION
        )
        noisy = log_p + 1e-13 * torch.randn(size, generator=generator, dtype=torch.float64)
        assert np.array_equal(frequencies(noisy), found), "rounding errors must not move the table"


def test_what_was_coded_with_one_prior_is_refused_by_another() -> None:
    coder, codes = prior(), torch.randint(40, (1, 30))
    data = to_bytes(coded(codes), coder)
    with pytest.raises(
        UserInputError,
        match=(
            rf"x\.vqw: is entropy-coded with prior {coder.fingerprint}, expected that prior:"
            r" --prior RUN"
        ),
    ):
        from_bytes(data, "x.vqw")
    other = prior(seed=1)
    with pytest.raises(
        UserInputError, match=rf"with prior {coder.fingerprint}, found prior {other.fingerprint}"
    ):
        from_bytes(data, "x.vqw", other)
    assert prior().fingerprint == coder.fingerprint
    assert replace(coder, labels={"speaker": SPEAKERS[::-1]}).fingerprint != coder.fingerprint
    with pytest.raises(UserInputError, match="of codec c0dec, the prior is for those of another"):
        to_bytes(coded(codes), replace(coder, codec="another"))
    with pytest.raises(UserInputError, match="1 books of 41 codes, the prior is for 1 of 40"):
        to_bytes(coded(codes, 41), coder)


def test_packed_files_need_no_prior_and_ignore_one() -> None:
    it = coded(torch.randint(40, (1, 30)))
    assert torch.equal(from_bytes(to_bytes(it), "x", prior()).codes, it.codes)


def test_damage_is_refused() -> None:
    """A changed byte by the file's checksum; a forged payload with a valid one by the checksum of
    the codes.
    """
    coder = prior()
    data = to_bytes(coded(torch.randint(40, (1, 30))), coder)
    for place in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(UserInputError, match=r"^x\.vqw: [^\n]+$"):
            from_bytes(bytes(damaged), "x.vqw", coder)
    forged = bytearray(data[:-4])
    forged[-6] ^= 0x10
    with pytest.raises(UserInputError, match=r"x\.vqw: its codes do not match their checksum"):
        from_bytes(bytes(forged) + struct.pack("<I", zlib.crc32(forged)), "x.vqw", coder)
    header = header_of(data, "x.vqw")
    payload = data[-4 - header.payload : -4]
    for change in ({"frames": 10**9}, {"prior": "3"}, {"check": 0}, {"samples": 1}, {"hop": 1}):
        with pytest.raises(UserInputError, match=r"^x\.vqw: [^\n]+$"):
            from_bytes(seal(replace(header, **change), payload), "x.vqw", coder)


def test_short_utterances_end_anywhere() -> None:
    """The coder's last bytes are left out where they are zero: whatever they were, the codes come
    back.
    """
    coder, generator = prior(1, 5), torch.Generator().manual_seed(0)
    lengths = set()
    for frames in range(1, 17):
        codes = torch.randint(5, (1, frames), generator=generator)
        data = compress(coder.network, codes, {})
        lengths.add(len(data) % 4)
        assert torch.equal(decompress(coder.network, data, frames, {})[0], codes)
    assert len(lengths) > 1


def test_many_books_read_back_frame_by_frame() -> None:
    coder = prior(3, 7)
    codes = torch.randint(7, (3, 11), generator=torch.Generator().manual_seed(5))
    data = compress(coder.network, codes, {})
    assert torch.equal(decompress(coder.network, data, 11, {})[0], codes)
    assert torch.equal(decompress(coder.network, data, 4, {})[0], codes[:, :4])


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UserInputError, match=r"pip install 'vqwave\[code\]'"):
        to_bytes(coded(torch.randint(40, (1, 3))), prior())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A prior's model folder with random weights, and a recording beside it."""
    small = StackSpec(
        layers=2, residual_channels=4, gate_channels=4, skip_channels=4, hidden_channels=4
    )
    codec = VQVAESpec(
        encoder=FrameEncoderSpec(channels=8),
        quantizer=EMAQuantizerSpec(codebook_size=16),
        decoder=WaveNetSpec(network=small, conditioner=ConditionerSpec(channels=4)),
    )
    spec = PriorSpec(
        network=small,
        conditioner=ConditionerSpec(channels=4, categorical=("speaker", "text")),
        codec=codec,
    )
    labels = {"speaker": SPEAKERS, "text": ["yes", "no"]}
    torch.manual_seed(0)
    built = spec.build(8000, labels)
    built.network.stack.out.bias.data[-1] = 3.0  # short utterances
    about = {
        "steps": 0,
        "seconds": 0.0,
        "corpus": "none",
        "seed": 0,
        "parameters": {"total": 1},
        "receptive_field": 1,
        "hop": 160,
    }
    card = ModelCard(
        sample_rate=8000,
        labels=labels,
        spec=spec,
        about={**about, "bit_rate": 200.0, "level_db": -23.0},
    )
    save_trained(tmp_path / "prior", built, card)
    soundfile.write(tmp_path / "in.wav", 0.1 * np.random.default_rng(0).normal(size=2000), 8000)
    return tmp_path


def test_the_commands(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, wav, small, plain = (
        str(model / "prior"),
        str(model / "in.wav"),
        str(model / "a.vqw"),
        str(model / "b.vqw"),
    )
    main(["encode", run, wav, "--out", small, "--prior", run, "--speaker", "ann"])
    assert "without the prior" in capsys.readouterr().out
    main(["encode", run, wav, "--out", plain, "--speaker", "ann"])
    main(["info", small])
    assert "needed to decode" in capsys.readouterr().out
    for number, (name, more) in enumerate(((small, ["--prior", run]), (small, []), (plain, []))):
        main(["decode", run, name, "--out", f"{name}.{number}.wav", "--quiet", *more])
    written = [soundfile.read(path)[0] for path in sorted(model.glob("*.vqw*.wav"))]
    assert len(written) == 3
    assert all(np.array_equal(wave, written[0]) for wave in written)
    main(["info", run])
    assert "conditioned on speaker, text" in capsys.readouterr().out
    out = str(model / "out.wav")
    main(
        [
            "generate",
            run,
            "--speaker",
            "bob",
            "--label",
            "text=yes",
            "--seconds",
            "0.2",
            "--out",
            out,
            "--quiet",
        ]
    )
    assert soundfile.info(out).frames == 1600
    main(["generate", run, "--speaker", "bob", "--code-temperature", "2", "--out", out, "--quiet"])
    assert soundfile.info(out).frames % 160 == 0


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--speaker", "an"], "did you mean ann"),
        (["--speaker", "ann", "--label", "text=maybe"], "text 'maybe': not among the 2"),
        (
            ["--speaker", "ann", "--label", "colour=red"],
            "colour: no condition of this model, expected speaker, text",
        ),
        ([], "speaker: not given"),
        (["--speaker", "ann", "--seconds", "0"], "seconds 0.0: expected a number above 0"),
        (["--speaker", "ann", "--code-top-p", "0"], "code top-p 0.0: expected"),
        (["--speaker", "ann", "--code-temperature", "-1"], "code temperature -1.0: expected"),
    ],
)
def test_bad_requests(
    model: Path, more: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", str(model / "prior"), "--out", str(model / "out.wav"), *more])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (model / "out.wav").exists()
