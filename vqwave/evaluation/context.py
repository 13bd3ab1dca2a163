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
from vqwave.evaluation.utterances import Utterances
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics.recognizer import DEFAULT, Recognizer, recognizer_of
from vqwave.models import VQVAE, WaveNet


class EvaluationContext(Utterances):
    """Utterances of a split that the model was trained on the speakers of, and what the model and
    its student generate from them.
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
    ) -> None:
        """any_voice: also utterances of speakers that the model was not trained on; it can encode
        them, and not decode them.

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
        required = () if any_voice else codec.decoder.conditioner.labels
        super().__init__(corpus, settings, known, required)
        self.outputs = SystemOutputs(self, self.systems, progress)

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
        model = self.codec.model
        if not isinstance(model, VQVAE):
            raise NotApplicable("the model has no codes")
        return model

    @property
    def wavenet(self) -> WaveNet:
        """The model's decoder, where it gives a likelihood; else `NotApplicable` is raised."""
        decoder = self.codec.decoder
        if not isinstance(decoder, WaveNet):
            raise NotApplicable(
                "the model's decoder is a student, which gives no likelihood of recordings"
            )
        return decoder

    @property
    def reconstructs(self) -> bool:
        """Whether the model reconstructs recordings: from codes, or from spectral frames."""
        return self.has_codes or self.codec.decoder.frontend is not None

    @property
    def speaker_conditioned(self) -> bool:
        return "speaker" in self.codec.decoder.conditioner.labels

    @property
    def coded(self) -> list[CodeSequence]:
        """The codes of each utterance."""
        return self.outputs.coded

    @cached_property
    def recognizer(self) -> Recognizer:
        """Trained on the corpus' recordings, when first asked for."""
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


def _trained_values(codec: SpeechModel, label: str) -> set[str]:
    """Values of a label with recordings in the model's training set; others have an id only."""
    return set(codec.labels[label]) - set(codec.card.about.get("unheard", {}).get(label, ()))
