"""Frames as input of a network: features of the waveform, frames from files, aligned phones;
standardised, side by side.
"""

# ruff: noqa: ARG002 - all front ends have one signature
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data.frame_tracks import PHONES, PITCH, FrameFile, PhoneTrack, PitchTrack, Track
from vqwave.errors import UserInputError, under
from vqwave.features import MFCC, LogMel, LogMelSpec, MFCCSpec, Pitch, PitchSpec, samples_of
from vqwave.nn.linear_prediction import LinearPredictor
from vqwave.nn.masks import stretched
from vqwave.nn.standardize import Standardize

Given = Mapping[str, Tensor]


class AnyFrontend(nn.Module, ABC):
    """Frames that condition a network: what all kinds of them have."""

    channels: int
    hop: int
    """Samples a frame."""
    tracks: tuple[Track, ...] = ()
    """Frames that the corpus gives with the waveform."""

    @abstractmethod
    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """wave (B, T), given: name -> frames of tracks, mask of the real -> (B, channels, F)."""

    @abstractmethod
    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        """Take statistics from complete recordings (T,), and their tracks' frames."""

    @property
    def log_mel(self) -> LogMel | None:
        """The log-mel features that these frames are, standardised; None for others."""
        return None

    @property
    def is_pitch(self) -> bool:
        """Whether these frames are F0 and voicing, standardised."""
        return False

    def unstandardised(self, frames: Tensor) -> Tensor:
        """Frames (B, channels, F) of `forward` -> as they were before they were standardised."""
        return frames

    def extended(self, frames: Tensor) -> Tensor:
        """Standardised frames (B, C, F) -> with what is computed from them, (B, channels, F)."""
        return frames

    @property
    def members(self) -> Sequence[AnyFrontend]:
        """The front ends that this one is made of, in the order of their channels."""
        return [self]


class Frontend(AnyFrontend):
    """wave (B, T) -> standardised features (B, channels, T / hop)."""

    def __init__(self, features: LogMel | MFCC | Pitch) -> None:
        super().__init__()
        self.features = features
        self.standardise = Standardize(features.channels)
        self.channels, self.hop = features.channels, features.hop

    @property
    def log_mel(self) -> LogMel | None:
        return self.features.log_mel

    def unstandardised(self, frames: Tensor) -> Tensor:
        return self.standardise.inverse(frames)

    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """mask: the real frames of each clip (B, F), or of coarser ones.

        Raises UserInputError where there is no waveform.
        """
        if wave is None:
            raise UserInputError(
                "this model is conditioned on features of a recording, expected one (given frames"
                " alone are not enough)"
            )
        real = None if mask is None else stretched(mask, wave.shape[-1] // self.hop)
        return self.standardise(self.features(wave, real))

    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        """Take the statistics from complete recordings (T,) of the training corpus."""
        frames = [
            self.features(w[None, : len(w) // self.hop * self.hop])[0].t()
            for w in waves
            if len(w) >= self.hop
        ]
        self.standardise.fit(torch.cat(frames))


class PitchFrontend(Frontend):
    """F0 and voicing, standardised: those given with the recording (the corpus' own), else
    tracked in the waveform.
    """

    def __init__(self, features: Pitch) -> None:
        super().__init__(features)
        self.tracks = (PitchTrack(features.hop, features.lowest, features.highest),)

    @property
    def is_pitch(self) -> bool:
        return True

    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """given["pitch"] (B, 2, F), or else wave (B, T) -> (B, 2, T / hop).

        Raises UserInputError where there is neither.
        """
        if given is not None and PITCH in given:
            return self.standardise(given[PITCH].to(self.standardise.mean))
        return super().forward(wave, given, mask)

    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        """given: by recording, its frames (2, F), if the corpus gives them."""
        if given and all(PITCH in frames for frames in given):
            self.standardise.fit(torch.cat([frames[PITCH].t() for frames in given]))
        else:
            super().fit(waves)


class FilesFrontend(AnyFrontend):
    """Frames from files, standardised; the waveform plays no part."""

    def __init__(self, track: FrameFile) -> None:
        super().__init__()
        self.tracks = (track,)
        self.standardise = Standardize(track.channels)
        self.channels, self.hop = track.channels, track.hop

    def unstandardised(self, frames: Tensor) -> Tensor:
        return self.standardise.inverse(frames)

    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """given[name] (B, channels, F) -> the same, standardised."""
        return self.standardise(_given(given, self.tracks[0].name).to(self.standardise.mean))

    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        """given: by recording, its frames (channels, F)."""
        self.standardise.fit(torch.cat([frames[self.tracks[0].name].t() for frames in given]))


class PhonesFrontend(AnyFrontend):
    """Aligned phones as one-hot frames: the phone and its neighbours, how far it has come (0 to 1),
    ln of its seconds.

    With the conditioner's convolution behind it the one-hots are embeddings. van den Oord et al.,
    2016, sec. 2.5 and 3.2
    """

    def __init__(self, track: PhoneTrack, phones: int) -> None:
        super().__init__()
        self.tracks = (track,)
        self.phones, self.hop = phones, track.hop
        self.channels = (2 * track.neighbours + 1) * phones + 2
        self.seat: Tensor  # dtype and device of the network
        self.register_buffer("seat", torch.zeros(()), persistent=False)

    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """given["phones"] (B, 2 neighbours + 3, F) -> (B, channels, F)."""
        frames = _given(given, PHONES)
        ids, place = frames[:, :-2].long(), frames[:, -2:]
        # (B, 2n + 1, F, V); nothing beyond the ends
        hot = F.one_hot(ids + 1, self.phones + 1)[..., 1:]
        return torch.cat(
            [hot.permute(0, 1, 3, 2).flatten(1, 2).to(self.seat), place.to(self.seat)], 1
        )

    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        """One-hots have no statistics."""


class ConcatFrontend(AnyFrontend):
    """Several front ends of one hop, their channels side by side."""

    def __init__(self, parts: Sequence[AnyFrontend]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        hops = {part.hop for part in parts}
        if len(hops) != 1:
            raise UserInputError(
                f"features.parts: hops of {', '.join(map(str, sorted(hops)))} samples, expected"
                " parts of one hop"
            )
        self.hop, self.channels = hops.pop(), sum(part.channels for part in parts)
        self.tracks = tuple(track for part in parts for track in part.tracks)

    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """-> (B, channels, F)."""
        return torch.cat([part(wave, given, mask) for part in self.members], 1)

    @property
    def members(self) -> Sequence[AnyFrontend]:
        return cast("Sequence[AnyFrontend]", self.parts)

    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        for part in self.members:
            part.fit(waves, given)


class PredictorFrontend(AnyFrontend):
    """Any front end with log-mel frames, followed by what a linear predictor makes of them."""

    def __init__(self, frames: AnyFrontend, predictor: LinearPredictor) -> None:
        super().__init__()
        self.frames = frames
        self.predictor = predictor
        self.channels, self.hop, self.tracks = frames.channels, frames.hop, frames.tracks

    def forward(
        self, wave: Tensor | None, given: Given | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """-> (B, channels + predictor.frame_channels, F): the frames as they are standardised, then
        the predictor's.
        """
        return self.extended(self.frames(wave, given, mask))

    def extended(self, frames: Tensor) -> Tensor:
        """Standardised frames (B, channels, F), followed by the predictor's."""
        members = self.frames.members
        split = frames.split([member.channels for member in members], 1)
        parts = list(zip(members, split, strict=True))
        # a predictor is built for a front end with log-mel frames
        log_mel = next(m.unstandardised(own) for m, own in parts if m.log_mel is not None)
        pitch = next((m.unstandardised(own) for m, own in parts if m.is_pitch), None)
        return torch.cat([frames, self.predictor.analyse(log_mel, pitch)], 1)

    def fit(self, waves: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        self.frames.fit(waves, given)


def spectrum_of(frontend: AnyFrontend) -> LogMel | None:
    """The log-mel among a front end's frames, if there is one."""
    return next((part.log_mel for part in frontend.members if part.log_mel is not None), None)


Vocabulary = Mapping[str, Sequence[str]]


@spec
class FilesSpec:
    """Frames from CORPUS/frames/NAME/UTTERANCE.npy, (channels, F): true or predicted mels,
    linguistic features, anything.
    """

    kind: Literal["files"] = "files"
    name: str = option(default="mel", help="folder of the files beneath CORPUS/frames")
    channels: Annotated[int, Field(ge=1)] = option(default=80, help="rows of each file")
    hop_ms: Annotated[float, Field(gt=0)] = option(
        default=12.5, help="time from frame to frame; a whole number of samples"
    )

    def frontend(self, sample_rate: int, vocabulary: Vocabulary) -> FilesFrontend:
        return FilesFrontend(
            FrameFile(self.name, samples_of("hop_ms", self.hop_ms, sample_rate), self.channels)
        )


@spec
class PhonesSpec:
    """Aligned phones of the corpus (its manifest's timings).

    van den Oord et al., 2016, sec. 3.2. arXiv:1609.03499
    """

    kind: Literal["phones"] = "phones"
    hop_ms: Annotated[float, Field(gt=0)] = option(
        default=5.0, help="time from frame to frame; a whole number of samples"
    )
    neighbours: Annotated[int, Field(ge=0)] = option(
        default=1, help="phones to either side that a frame names, too"
    )

    def frontend(self, sample_rate: int, vocabulary: Vocabulary) -> PhonesFrontend:
        """Raises UserInputError for a corpus without phones."""
        if not vocabulary.get(PHONES):
            raise UserInputError(
                "features.kind: phones, but no utterance of the corpus has any; expected `phones`"
                " in its manifest"
            )
        return PhonesFrontend(
            PhoneTrack(samples_of("hop_ms", self.hop_ms, sample_rate), self.neighbours),
            len(vocabulary[PHONES]),
        )


PartSpec = Annotated[
    LogMelSpec | MFCCSpec | PitchSpec | FilesSpec | PhonesSpec, Field(discriminator="kind")
]


@spec
class ConcatSpec:
    """Several kinds of frames side by side, e.g. phones and pitch."""

    kind: Literal["concat"] = "concat"
    parts: Annotated[tuple[PartSpec, ...], Field(min_length=1)] = option(
        default=(LogMelSpec(),), help="kinds of frames, all of one hop_ms"
    )

    def frontend(self, sample_rate: int, vocabulary: Vocabulary) -> ConcatFrontend:
        return ConcatFrontend(
            [build_frontend(part, sample_rate, vocabulary) for part in self.parts]
        )


FrameSpec = Annotated[
    LogMelSpec | MFCCSpec | PitchSpec | FilesSpec | PhonesSpec | ConcatSpec,
    Field(discriminator="kind"),
]


def build_frontend(
    features: LogMelSpec | MFCCSpec | PitchSpec | FilesSpec | PhonesSpec | ConcatSpec,
    sample_rate: int,
    vocabulary: Vocabulary,
) -> AnyFrontend:
    """The front end of any kind of frames; features of the waveform (which depend on no corpus) get
    theirs here.
    """
    if isinstance(features, FilesSpec | PhonesSpec | ConcatSpec):
        return features.frontend(sample_rate, vocabulary)
    with under("features"):
        built = features.build(sample_rate)
    return PitchFrontend(built) if isinstance(built, Pitch) else Frontend(built)


def _given(given: Given | None, name: str) -> Tensor:
    if given is None or name not in given:
        raise UserInputError(f"frames {name!r} are not given, expected them with the recording")
    return given[name]
