"""What a visitor of the page works with: recordings as codes, voices, and sounds made of both.

All values are immutable; nothing here depends on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from vqwave import audio
from vqwave.app.models import voice_pitches, voices
from vqwave.audio import Wave
from vqwave.audio.streaming import Recording as SoundFile
from vqwave.codes import CodeSequence
from vqwave.decode.backend import choose
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.distributed.torch_defaults import inference
from vqwave.errors import UserInputError
from vqwave.failures import about
from vqwave.inference.reference_voice import ReferenceVoice
from vqwave.inference.speech_model import SpeechModel

Progress = Callable[[float], object]
"""Takes the share of the work that is done, 0 to 1."""

FEW = 8  # frames, of which all that decodes takes part
# voices of recordings, for as long as their visitors have them
_fitted: WeakKeyDictionary[Recording, dict[SpeechModel, ReferenceVoice]] = WeakKeyDictionary()

HISTORY = 50  # edits that can be undone
LONGEST_GENERATED = 5.0  # seconds of what a prior draws
RECORDED = {"audio": "microphone"}  # what gradio calls a recording, and what the page does


@dataclass(frozen=True)
class Take:
    """A recording (T,) at `rate` Hz, its codes, and what each edit made of them; `title` is what
    its wave is called.
    """

    name: str
    wave: Wave
    rate: int
    source: CodeSequence
    edits: tuple[CodeSequence, ...] = ()
    title: str = "recording"

    @property
    def coded(self) -> CodeSequence:
        """The codes after the last edit."""
        return self.edits[-1] if self.edits else self.source

    def edited(self, coded: CodeSequence, longest: float) -> Take:
        """With other codes. Raises UserInputError for more than `longest` seconds of them."""
        if coded.seconds > longest:
            raise UserInputError(
                f"edited codes: {coded.seconds:.1f} s, expected at most {longest:g} s"
            )
        return replace(self, edits=(*self.edits, coded)[-HISTORY:])

    def undone(self) -> Take:
        """Without the last edit. Raises UserInputError where there is none."""
        if not self.edits:
            raise UserInputError("there is no edit to undo")
        return replace(self, edits=self.edits[:-1])


@dataclass(frozen=True, eq=False)  # a recording is equal to itself alone
class Recording:
    """(T,) at `rate` Hz, as it was read."""

    name: str
    wave: Wave
    rate: int


@dataclass(frozen=True)
class Voice:
    """How codes are decoded; `speaker` is None for a model of one voice.

    like: a recording whose voice is taken, whoever `speaker` is.
    """

    speaker: str | None = None
    shift_semitones: float = 0.0
    sampling: Sampling = DEFAULT
    like: Recording | None = None

    @property
    def title(self) -> str:
        """Whose it is, and by how much it is moved; empty where there is nothing to choose."""
        whose = f"a voice like {self.like.name}" if self.like else self.speaker or ""
        shift = f"{self.shift_semitones:+g} semitones".replace("-", "−")
        return ", ".join(filter(None, [whose, shift if self.shift_semitones else ""]))


@dataclass(frozen=True)
class Sound:
    """Something to play: (T,) at `rate` Hz, brought to the level of all sounds of its model."""

    title: str
    wave: Wave
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.rate


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """UserInputErrors within name a file, without the folder, which is the server's."""
    try:
        with about(path):
            yield
    except UserInputError as error:
        raise UserInputError(str(error).replace(str(path), path.name)) from None


def read_recording(path: Path, longest: float) -> Recording:
    """A sound file.

    Raises UserInputError that has the file's name alone, also for one of more than `longest`
    seconds, of which nothing but the header is read.
    """
    with _about(path):
        seconds = SoundFile.open(path).seconds
        if seconds > longest:
            raise UserInputError(f"{path}: {seconds:.1f} s, expected at most {longest:g} s")
        return Recording(RECORDED.get(path.stem, path.stem), *audio.read(path))


def read_take(model: SpeechModel, path: Path, longest: float, name: str | None = None) -> Take:
    """The same, encoded; name: another one than the file's."""
    recording = read_recording(path, longest)
    wave, rate = recording.wave, recording.rate
    with _about(path):
        return Take(name or recording.name, wave, rate, model.encode(wave, rate))


def recoded(model: SpeechModel, take: Take) -> Take:
    """The same for another model; codes of another codec are encoded anew, without any edits."""
    if take.source.fingerprint == model.fingerprint:
        return take
    return replace(take, source=model.encode(take.wave, take.rate), edits=())


def generate(prior: SpeechModel, labels: Mapping[str, str], sampling: Sampling = DEFAULT) -> Take:
    """Codes that a prior draws given labels, decoded by its own decoder.

    sampling: its seed is that of the codes, too. Raises UserInputError.
    """
    assert prior.prior is not None  # `Models.priors` holds no others
    longest = min(LONGEST_GENERATED, prior.prior.longest_of(labels))
    drawn = prior.prior.draw(labels=labels, seed=sampling.seed, longest=longest)[0]
    if not drawn.samples:
        raise UserInputError(f"seed {sampling.seed}: nothing was drawn, expected another seed")
    speaker = drawn.speaker or next(iter(voices(prior)), None)
    wave = prior.decode(drawn, speaker, sampling=sampling)
    name = "-".join(value for label, value in labels.items() if label != "speaker")
    title = f"generated as {speaker}" if speaker else "generated"
    codes = drawn.as_speaker(None)
    return Take(name or "generated", wave.numpy(), prior.sample_rate, codes, title=title)


def original(model: SpeechModel, take: Take) -> Sound:
    """The recording as the model takes it: at its rate and level."""
    wave = model.prepare(take.wave, take.rate).cpu().numpy()
    return Sound(take.title, wave, model.sample_rate)


def voice_like(model: SpeechModel, recording: Recording) -> ReferenceVoice:
    """The voice of a recording as a model takes it, which is fitted once. Raises UserInputError."""
    voices = _fitted.setdefault(recording, {})
    if model not in voices:
        voices[model] = model.voice_like((recording.wave, recording.rate))
    return voices[model]


def decoded(
    model: SpeechModel, coded: CodeSequence, voice: Voice, title: str, progress: Progress
) -> Sound:
    """Codes in a voice. Raises UserInputError."""
    done = 0

    def count(samples: int) -> None:
        nonlocal done
        done += samples
        progress(min(1.0, done / max(1, coded.samples)))

    wave = model.decode(
        coded,
        None if voice.like else voice.speaker,
        like=None if voice.like is None else voice_like(model, voice.like),
        shift_semitones=voice.shift_semitones if model.kind.melody is not None else 0.0,
        sampling=voice.sampling,
        progress=count,
    )
    level = audio.normalise_level(wave.cpu().numpy(), model.level_db)
    return Sound(title, level, model.sample_rate)


def versions(
    model: SpeechModel, take: Take, voice: Voice, progress: Progress
) -> tuple[Sound, list[Sound]]:
    """The recording; its codes in the nearest voice and in the one that was chosen, which are
    decoded once where both are one.

    Of a model of one voice there is no nearest one. Raises UserInputError.
    """
    what, nearest = "edited codes" if take.edits else "reconstruction", nearest_voice(model, take)
    recording = original(model, take)
    if nearest is None and voice.like is None:
        title = ", ".join(filter(None, [what, voice.title]))
        return recording, [decoded(model, take.coded, voice, title, progress)]
    own = Voice(nearest, sampling=voice.sampling)
    same = voice.like is None and voice == own
    parts = 1 if same else 2

    def part(index: int) -> Progress:
        return lambda share: progress((index + share) / parts)

    # the chosen voice first: what is wrong is wrong with that one
    chosen = decoded(model, take.coded, voice, f"conversion to {voice.title}", part(0))
    title = f"{what} as {nearest}" if nearest else what
    copy = replace(chosen, title=title) if same else decoded(model, take.coded, own, title, part(1))
    return recording, [copy, chosen]


def default_voice(model: SpeechModel, take: Take | None = None) -> str | None:
    """A voice that a recording differs from: of the lower and of the higher half of the voices the
    middle one, whichever is farther from the recording in pitch; never the nearest voice.

    Of a model without pitch the first that is not the nearest; None for a model of one voice.
    """
    names, pitches = voices(model), voice_pitches(model)
    nearest = None if take is None else nearest_voice(model, take)
    others = [name for name in names if name != nearest] or names
    if pitches is None or not names:
        return next(iter(others), None)
    ordered = sorted(names, key=pitches.__getitem__)
    own = pitches[ordered[0]]
    if take is not None and take.source.pitch is not None:
        own = take.source.pitch.mean
    middles = []
    for half in ordered[: len(names) // 2], ordered[len(names) // 2 :]:
        left = [name for name in half if name in others]
        middles += left[(len(left) - 1) // 2 :][:1]
    return max(middles, key=lambda name: abs(pitches[name] - own))


def is_compiled(model: SpeechModel, coded: CodeSequence, sampling: Sampling) -> bool:
    """Whether such codes are decoded without compiling anything first."""
    backend = choose(model.decoder, sampling.backend).backend
    if backend != "numba":
        return backend == "reference"
    from vqwave.decode.cpu.compiled import NotKeptError, kept_alone

    first = coded.cut(0, min(FEW, coded.codes.shape[1]))
    try:
        with kept_alone():
            model.decode(first, next(iter(voices(model)), None), sampling=sampling)
    except NotKeptError:
        return False
    return True


@inference()
def nearest_voice(model: SpeechModel, take: Take) -> str | None:
    """The trained speaker in whose voice the spectral decoder comes nearest to a recording.

    The distance is the mean squared error of the standardised frames that it predicts from the
    recording's codes. None for a model of one voice; the first speaker where there is no spectral
    decoder.
    """
    names, codec = voices(model), model.kind.codec
    spectral = None if codec is None else codec.spectral_decoder
    if codec is None or spectral is None or len(names) < 2:
        return next(iter(names), None)
    x, coded = model.prepare(take.wave, take.rate), take.source
    z = codec.quantizer.decode(coded.codes[None].to(model.device))
    pitch_codes = None if coded.pitch is None else coded.pitch.codes[None].to(model.device)
    padded = torch.nn.functional.pad(x, (0, coded.codes.shape[1] * coded.hop - len(x)))
    frames = spectral.frontend(padded[None])

    def distance(name: str) -> float:
        labels = model.given.voice(name, {}, None)
        pitch = codec.pitch(pitch_codes, labels, z.shape[-1])
        return float((spectral(z, labels, None, pitch) - frames).square().mean())

    return min(names, key=distance)
