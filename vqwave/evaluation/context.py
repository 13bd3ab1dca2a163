"""What every metric is computed from: held-out recordings, the models, their outputs, and the
models that judge them.
"""

from __future__ import annotations

from functools import cached_property

from vqwave.codes import CodeSequence
from vqwave.data import Corpus
from vqwave.errors import UserInputError
from vqwave.evaluation.outputs import SystemOutputs, codes_of
from vqwave.evaluation.panel import Panel
from vqwave.evaluation.progress import NotApplicable, ProgressFactory, silent
from vqwave.evaluation.settings import Settings
from vqwave.evaluation.unseen_speakers import NEAREST, OWN, TURNS, WHY, substitute_voices
from vqwave.evaluation.utterances import Utterances
from vqwave.inference.reference_voice import ReferenceVoice
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics.recognizer import DEFAULT, Recognizer, recognizer_of
from vqwave.models import VQVAE, WaveNet


class EvaluationContext(Utterances):
    """Utterances of a split that the model was trained on the speakers of, and what the model and
    its student generate from them. Where there is none, those of unseen speakers may be taken.
    """

    def __init__(
        self,
        corpus: Corpus,
        codec: SpeechModel,
        student: SpeechModel | None,
        settings: Settings,
        progress: ProgressFactory = silent,
        *,
        any_voice: bool = False,
        unseen_speakers: bool = False,
    ) -> None:
        """any_voice: also utterances of speakers that the model was not trained on; it can encode
        them, and not decode them. unseen_speakers: those of other speakers, where there are none of
        these, see the module of this name.

        Raises `UserInputError` for models that do not fit the corpus or one another.
        """
        self.codec, self.student, self.progress = codec, student, progress
        for name, system in self.systems.items():
            if system.sample_rate != corpus.sample_rate:
                raise UserInputError(
                    f"{name}: is for {system.sample_rate} Hz, {corpus.folder} is at"
                    f" {corpus.sample_rate} Hz"
                )
        if student is not None and codes_of(student) != codes_of(codec):
            raise UserInputError(
                "student: has other codes than the model, expected one that was distilled from it"
            )
        known = {name: _trained_values(codec, name) for name in codec.labels}
        required = () if any_voice else _voice_labels(codec)
        unseen_speakers = unseen_speakers and codes_of(codec) is not None and "speaker" in required
        super().__init__(corpus, settings, known, required, unseen_speakers=unseen_speakers)
        self.outputs = SystemOutputs(self, self.systems, progress, lambda: self.substitute_voices)

    @property
    def systems(self) -> dict[str, SpeechModel]:
        """The model and, where given, its student; a model whose own decoder is a student counts as
        the model.
        """
        return {"model": self.codec} | ({"student": self.student} if self.student else {})

    @property
    def has_codes(self) -> bool:
        return self.outputs.has_codes

    @property
    def vqvae(self) -> VQVAE:
        """The model, where it has codes; else `NotApplicable` is raised."""
        codec = self.codec.kind.codec
        if codec is None:
            raise NotApplicable("the model has no codes")
        return codec

    @property
    def wavenet(self) -> WaveNet:
        """The model's decoder, where it gives a likelihood; else `NotApplicable` is raised."""
        scorer = self.codec.decoder.scorer
        if scorer is None:
            raise NotApplicable(
                "the model's decoder is a student, which gives no likelihood of recordings"
            )
        return scorer

    @property
    def reconstructs(self) -> bool:
        """Whether the model reconstructs recordings: from codes, or from spectral frames."""
        return self.has_codes or self.codec.decoder.frontend is not None

    @property
    def speaker_conditioned(self) -> bool:
        return "speaker" in self.codec.decoder.conditioner.labels

    @property
    def in_own_voices(self) -> bool:
        """Whether copies are in the voices of the recordings."""
        return self.copied_in == OWN

    @cached_property
    def copied_in(self) -> str:
        """In which voices recordings are copied, in words."""
        if not self.unseen_speakers:
            return OWN
        voices = self.codec.voices
        try:
            _ = self.panel.encoder
        except NotApplicable:
            return TURNS
        if voices is None:
            return TURNS
        by_vector = self.codec.takes_vectors and voices.whitening is not None
        return OWN if by_vector else NEAREST

    @cached_property
    def substitute_voices(self) -> list[ReferenceVoice]:
        """The voice that each recording of an unseen speaker is copied in."""
        vectors = None
        if self.copied_in != TURNS:
            vectors = self.panel.voices("recordings", self.waves)
        return substitute_voices(self.codec, self.coded, vectors, self.targets)

    def need_own_voices(self) -> None:
        """Raises `NotApplicable` where copies are in other voices than the recordings."""
        self.need(self.in_own_voices, f"{WHY}: copies are in {self.copied_in}")

    @property
    def coded(self) -> list[CodeSequence]:
        """The codes of each utterance."""
        return self.outputs.coded

    @cached_property
    def recognizer(self) -> Recognizer:
        """Trained on the corpus' recordings, when first asked for."""
        _ = self.training  # raises where there is none
        steps, done = DEFAULT.members * DEFAULT.steps, 0
        with self.progress("training a recognizer on recordings", steps, "steps") as advance:

            def advance_to(step: int) -> None:
                nonlocal done
                advance(step - done)
                done = step

            return recognizer_of(self.corpus, keep=self.settings.keep, progress=advance_to)

    @cached_property
    def panel(self) -> Panel:
        """Judges that were trained elsewhere; each waveform is judged once."""
        settings = self.settings
        return Panel(self.rate, settings.resamples, self.progress, settings.whisper)


def _voice_labels(codec: SpeechModel) -> tuple[str, ...]:
    """Labels that a decoder must have been trained on the values of."""
    labels = codec.decoder.conditioner.labels
    by_vector = codec.takes_vectors and "speaker" not in labels
    return (*labels, "speaker") if by_vector else labels


def _trained_values(codec: SpeechModel, label: str) -> set[str]:
    """Values of a label with recordings in the model's training set; others have an id only."""
    return set(codec.card.trained(label))
