"""The picture and the sounds of the README: a recording, and what the shipped models make of it.

python benchmarks/figure.py RECORDING [--speaker NAME] [--target NAME] [--out docs/figures]

RECORDING is a sound file, or a corpus that `vqwave prepare` wrote, whose first test utterance is
taken. Writes `spectrograms.png` and an `.ogg` each of the original, the reconstruction by the
autoregressive decoder, its conversion to another voice, and the reconstruction by the student.
Needs matplotlib (extra `report`).
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

import vqwave
from vqwave.audio import normalise_level, resample
from vqwave.data.corpus import is_corpus

RANGE_DB = 60.0
COLOURS = 40  # of the palette: the file stays small
LARGEST_BYTES = 150_000
Wave = NDArray[np.float32]


def recording_of(path: Path) -> tuple[Wave, int]:
    """The samples (T,) of a sound file, or of a corpus' first test utterance, and their rate."""
    if not is_corpus(path):
        return vqwave.read(path)
    corpus = vqwave.Corpus.open(path)
    return corpus.read(corpus.of("test")[0]), corpus.sample_rate


def spectrum_db(wave: Wave, rate: int) -> NDArray[np.float64]:
    """Power in dB (bins, F): Hann windows of 25 ms, every 5 ms."""
    window = round(0.025 * rate)
    size = 1 << window.bit_length()
    spectrum = torch.stft(
        torch.from_numpy(wave.astype(np.float64)),
        size,
        round(0.005 * rate),
        window,
        torch.hann_window(window, dtype=torch.float64),
        pad_mode="constant",
        return_complex=True,
    )
    return 10 * np.log10(spectrum.abs().square().numpy() + 1e-10)


def draw(waves: dict[str, Wave], rate: int, out: Path) -> None:
    """One spectrogram below the other, as a PNG of few colours."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(
        len(waves), 1, figsize=(7.2, 1.25 * len(waves) + 0.3), sharex=True, layout="constrained"
    )
    for axis, (title, wave) in zip(axes, waves.items(), strict=True):
        power = spectrum_db(wave, rate)
        axis.imshow(
            power,
            vmin=power.max() - RANGE_DB,
            vmax=power.max(),
            cmap="magma",
            origin="lower",
            aspect="auto",
            extent=(0.0, len(wave) / rate, 0.0, rate / 2000),
        )
        axis.set_title(title, fontsize=9, loc="left", pad=2)
        axis.tick_params(labelsize=7)
        axis.set_ylabel("kHz", fontsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=100, format="png")
    plt.close(figure)
    image = Image.open(content).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(out, optimize=True)


def timed(name: str, decode: Callable[[], torch.Tensor]) -> Wave:
    """What `decode` returns; prints its speed by the time of the processor."""
    start = time.process_time()
    wave = decode().cpu().numpy()
    seconds = time.process_time() - start
    print(f"{name}: {len(wave):,} samples in {seconds:.1f} s of processor time")
    return wave


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recording", nargs="?", type=Path, default=Path("data/demo"))
    parser.add_argument("--model", default="speech", help="name or folder (default %(default)s)")
    parser.add_argument("--student", help="default: the model's name and -student")
    parser.add_argument("--speaker", default="26", help="voice of the reconstructions")
    parser.add_argument("--target", default="19", help="voice of the conversion")
    parser.add_argument("--seconds", type=float, default=5.0, help="length (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    try:
        wave, source_rate = recording_of(options.recording)
        teacher = vqwave.load(options.model)
        student = vqwave.load(options.student or f"{options.model}-student")
        rate = teacher.sample_rate
        original = resample(wave, source_rate, rate)[: round(options.seconds * rate)]
        codes = teacher.encode(original, rate)
        waves = {
            "original": original,
            "reconstruction": timed("teacher", lambda: teacher.decode(codes, options.speaker)),
            "conversion": timed("teacher again", lambda: teacher.decode(codes, options.target)),
            "student": timed("student", lambda: student.decode(codes, options.speaker)),
        }
    except vqwave.UserInputError as error:
        sys.exit(f"error: {error}")
    titles = {
        "original": f"original, {rate // 1000} kHz",
        "reconstruction": f"reconstruction from {codes.bit_rate:.0f} bit/s, autoregressive decoder",
        "conversion": f"conversion to the voice {options.target}, the same codes",
        "student": "reconstruction by the student, in one pass",
    }
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "spectrograms.png"
    draw({titles[name]: sound for name, sound in waves.items()}, rate, picture)
    for name, sound in waves.items():
        level = normalise_level(sound).astype(np.float32)
        soundfile.write(options.out / f"{name}.ogg", level, rate, format="OGG", subtype="VORBIS")
    size = picture.stat().st_size
    print(f"{picture}: {size:,} bytes")
    if size > LARGEST_BYTES:
        sys.exit(f"error: {picture}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")


if __name__ == "__main__":
    main()
