"""The page's scripts compute what the package computes: noise, level, F0, files. By node, without a
browser.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from vqwave.audio import to_int16
from vqwave.codes import CodeSequence, PitchCodes
from vqwave.codes.file_format import to_bytes
from vqwave.data.voices import VoicePitch
from vqwave.distributions import GaussianMixture, LogisticMixture
from vqwave.inference.preparation import prepare
from vqwave.pitch_tracking import at_positions, contour, positions
from vqwave.rng.philox import philox, uniforms

WEB = Path(__file__).parents[2] / "vqwave" / "export" / "web"
FACTS = {"sample_rate": 8000, "hop": 160, "codec": "00ff10aa00ff10aa"}
TRACKER = {"rate": 16000, "grid": 256, "voiced": 0.5}


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("the page's scripts need node to run without a browser")
    return found


def computed(node: str, expression: str, **given: Any) -> Any:  # noqa: ANN401 - of JSON
    """What an expression gives after the scripts; `given` are constants."""
    sources = [(WEB / f"{name}.js").read_text() for name in ("noise", "sound", "codes", "melody")]
    constants = [f"const {name} = {json.dumps(value)};" for name, value in given.items()]
    printed = f"process.stdout.write(JSON.stringify({expression}))"
    script = "\n".join([*sources, *constants, printed])
    done = subprocess.run(
        [node, "-"], input=script, capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_philox_is_that_of_the_package(node: str) -> None:
    """The known answers of the paper's code, and any seed."""
    most = 0xFFFFFFFF
    counters = [[0, 0, 0, 0], [most] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]]
    seeds = [0, 2**53 - 1, 0x299F31D0A4093822 % 2**53]
    found = computed(
        node,
        "counters.map((c, i) => philox(c, [seeds[i] % 2 ** 32, Math.floor(seeds[i] / 2 ** 32)]))",
        counters=counters,
        seeds=seeds,
    )
    for words, counter, seed in zip(found, counters, seeds, strict=True):
        assert words == philox(np.array(counter, np.uint64), seed).tolist()
    assert found[0] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
@pytest.mark.parametrize(
    ("base", "kind"), [("logistic", LogisticMixture), ("gaussian", GaussianMixture)]
)
def test_the_same_seed_gives_the_same_noise(
    node: str, base: str, kind: type[LogisticMixture], seed: int
) -> None:
    found = computed(node, "Array.from(noise(base, seed, 500))", base=base, seed=seed)
    expected = kind.standard_sample(uniforms(seed, torch.zeros(1, dtype=torch.int64), 0, 500))[0]
    torch.testing.assert_close(torch.tensor(found), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_a_recording_is_prepared_alike(node: str, gain: float) -> None:
    wave = np.random.default_rng(0).standard_normal(800).astype(np.float32) * 0.01
    wave[3] = 0.9  # a peak, which holds the level down
    wave = wave * np.float32(gain) + np.float32(0.05)
    found = computed(node, "Array.from(prepared(Float32Array.from(wave), -23))", wave=wave.tolist())
    np.testing.assert_allclose(found, prepare(wave, 8000, 8000, -23.0), rtol=0, atol=2e-7)


@pytest.mark.parametrize(("wave", "words"), [([], "empty"), ([0.5] * 9, "silent")])
def test_what_is_no_recording_is_refused(node: str, wave: list[float], words: str) -> None:
    attempt = "try { prepared(Float32Array.from(wave), -23) } catch (e) { return e.message }"
    assert words in computed(node, f"(() => {{ {attempt} }})()", wave=wave)


def test_a_sound_file_has_the_samples_of_the_package(node: str) -> None:
    wave = [0.0, 0.5, -1.0, 1.0, -1.5, 2.5 / 32768, 3.5 / 32768, -2.5 / 32768, 1e-4]
    data = bytes(
        computed(node, "[...new Uint8Array(wav(Float32Array.from(wave), 8000))]", wave=wave)
    )
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 8000
    assert samples.tolist() == to_int16(np.array(wave, np.float32)).tolist()
    whole = "[...new Uint8Array(wav(Float32Array.from(wave), 8000, true))]"
    samples, _ = soundfile.read(
        io.BytesIO(bytes(computed(node, whole, wave=wave))), dtype="float32"
    )
    assert samples.tolist() == np.array(wave, np.float32).tolist()


@pytest.mark.parametrize(
    ("size", "books", "frames"), [(256, 1, 151), (5, 3, 40), (512, 1, 0), (1, 1, 9), (300, 2, 700)]
)
@pytest.mark.parametrize("pitch_size", [None, 27, 1])
def test_a_file_of_codes_is_that_of_the_package(
    node: str, size: int, books: int, frames: int, pitch_size: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, size, (books, frames), generator=generator)
    samples, pitch, melody, given = max(0, frames * 160 - 9), None, None, None
    if pitch_size is not None:
        count = -(-frames // 4)
        tensor = torch.randint(0, pitch_size, (1, count), generator=generator)
        pitch = PitchCodes(tensor, 640, pitch_size, 0.31, 0.17)
        melody = {"hop": 80, "frames_a_code": 8, "size": pitch_size, "books": 1}
        given = {"codes": tensor[0].tolist(), "mean": 0.31, "deviation": 0.17}
    coded = CodeSequence(codes, 8000, 160, samples, size, str(FACTS["codec"]), pitch=pitch)
    found = computed(
        node,
        "[...vqw(model, coded)]",
        model={**FACTS, "size": size, "books": books, "melody": melody},
        coded={
            "samples": samples,
            "frames": frames,
            "codes": codes.t().flatten().tolist(),
            "pitch": given,
        },
    )
    assert bytes(found) == to_bytes(coded)


def test_f0_between_network_frames_is_that_of_the_package(node: str) -> None:
    generator = np.random.default_rng(1)
    hz, confidence = generator.uniform(60, 400, 40), generator.uniform(0.2, 0.9, 40)
    for rate, hop, count in ((16000, 160, 60), (8000, 80, 55), (16000, 100, 3)):
        found = computed(
            node,
            "Array.from(interpolated(hz, confidence, count, hop, rate, tracker))",
            hz=hz.tolist(),
            confidence=confidence.tolist(),
            count=count,
            hop=hop,
            rate=rate,
            tracker=TRACKER,
        )
        expected = at_positions(hz, confidence, positions(0, count, rate, hop))
        assert (expected > 0).any() or count == 3
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_range_and_contour_are_those_of_the_package(node: str) -> None:
    facts = {"unvoiced": [0.4, 0.2], "least_deviation": 0.05}
    f0 = np.array([0, 120, 130.5, 0, 99, 240, 0], np.float32)
    voice = VoicePitch.of(f0)
    assert voice is not None
    found = computed(node, "rangeOf(Float32Array.from(f0), facts)", f0=f0.tolist(), facts=facts)
    assert found == pytest.approx([voice.mean, voice.deviation])
    flat = computed(node, "rangeOf(Float32Array.of(100, 100), facts)", facts=facts)
    assert flat == pytest.approx([0.0, 0.05])
    assert computed(node, "rangeOf(Float32Array.of(0, 0), facts)", facts=facts) == [0.4, 0.2]
    padded = np.pad(contour(f0), ((0, 0), (0, 1)))
    found = computed(node, "Array.from(contour(Float32Array.from(f0), 8))", f0=f0.tolist())
    np.testing.assert_allclose(np.reshape(found, (2, 8)), padded, rtol=1e-6, atol=1e-7)
    assert math.isclose(found[1], math.log(1.2), rel_tol=1e-6)


def test_quiet_network_frames_are_unvoiced(node: str) -> None:
    wave = np.zeros(4 * 256, np.float32)
    wave[300], wave[600] = 0.01, 0.0005
    found = computed(node, "hushed([1, 1, 1, 1], Float32Array.from(wave), 256)", wave=wave.tolist())
    assert found == [0, 1, 0, 0]


@pytest.mark.parametrize("rate", [8000, 22050])
def test_a_recording_is_resampled_as_soxr_does(node: str, rate: int) -> None:
    """A rising tone, which stays below the end of either band."""
    t = np.arange(rate // 4) / rate
    wave = (np.hanning(len(t)) * np.sin(2 * np.pi * 0.3 * rate * t * (0.2 + t))).astype(np.float32)
    found = np.array(
        computed(
            node,
            "Array.from(resampled(Float32Array.from(wave), rate, 16000))",
            wave=wave.tolist(),
            rate=rate,
        )
    )
    expected = soxr.resample(wave.astype(np.float64), rate, 16000, quality="VHQ")
    assert abs(len(found) - len(expected)) <= 1
    size = min(len(found), len(expected))
    np.testing.assert_allclose(found[:size], expected[:size], rtol=0, atol=1e-5)
