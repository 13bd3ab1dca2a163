"""What happens after a click on the page: values of components in, updates of components out.

Around `session`, `editing` and `pictures`; which component has which handler is in `page`.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from vqwave import inputs
from vqwave.app import editing, pictures, session
from vqwave.app.editing import Span
from vqwave.app.models import Models, described_voices, voices
from vqwave.app.samples import plain, sample
from vqwave.app.session import Recording, Take, Voice
from vqwave.decode.backend import choose
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.errors import UserInputError, under
from vqwave.failures import in_a_line, reported
from vqwave.inference.speech_model import SpeechModel
from vqwave.terminal import message

EMPTY = Markup('<p class="vq-empty">Record, drop or choose a recording.</p>')
DECODE = Markup('<p class="vq-empty">Press Convert to decode these codes.</p>')
COMPILING = "compiling the decoder, up to a minute"
REPEAT, CUT, FILL = "repeat", "cut", "set to one code"
SUBSTITUTE, SWAP = "replace by the second's", "exchange with the second's"
Update = Any  # what gradio takes for a component: a value, or `gr.update`


@dataclass(frozen=True)
class Limits:
    """Seconds of a recording, and visitors that may wait."""

    seconds: float = 30.0
    waiting: int = 20


def in_words(work: Callable[..., Any]) -> Callable[..., Any]:
    """An error within is a line on the page."""

    @functools.wraps(work)
    def run(*arguments: object) -> object:
        try:
            return work(*arguments)
        except Exception as error:
            line = in_a_line(error)
            if line is None:  # where its traceback is, is for who serves the page
                message(f"error: {reported(error)}")
                line = "a mistake of vqwave, described where the page is served from"
            raise gr.Error(
                html.escape(line), duration=None, title="", print_exception=False
            ) from error

    return run


class Handlers:
    """What happens after a click: values of components in, updates of components out."""

    def __init__(self, models: Models, limits: Limits, sampling: Sampling = DEFAULT) -> None:
        """sampling: the decoders' back-end and precision.

        Raises UserInputError for a back-end that a decoder has not.
        """
        self.models, self.limits, self.sampling = models, limits, sampling
        self.compiled: set[str] = set()  # decoders that nothing has to be compiled for
        for name, model in models.decoders.items():
            with under(name):
                choose(model.decoder, sampling.backend)

    def read(
        self, path: str | None, decoder: str, wished: str | None, name: str | None = None
    ) -> list[Update]:
        """A file that was recorded or dropped -> speaker, note, take, strip, sounds, first, last.

        wished: the voice that the visitor chose; name: of an example.
        """
        if path is None:
            return [gr.skip(), gr.skip(), *self.show(None, decoder)]
        model = self.models.decoder(decoder)
        take = session.read_take(model, Path(path), self.limits.seconds, name)
        speaker = gr.update(value=_voice(model, take, wished))
        return [speaker, self._note(decoder, take), *self.show(take, decoder)]

    def read_sample(self, title: str | None, decoder: str, wished: str | None) -> list[Update]:
        """The same of an example, which the recorder shows, too; of none where a list was left
        without a choice.
        """
        if title is None:
            return [gr.skip()] * 8
        path = str(sample(title))
        return [path, *self.read(path, decoder, wished, plain(title))]

    def show(self, take: Take | None, decoder: str, span: Span | None = None) -> list[Update]:
        """take, strip, sounds, first, last; without a take all are empty.

        span: the stretch to be chosen, the middle third by default.
        """
        marked = _marked(take, span)
        if take is None:
            return [None, "", EMPTY, *marked[1:]]
        cards = pictures.cards([session.original(self.models.decoder(decoder), take)], take.name)
        return [take, marked[0], cards + DECODE, *marked[1:]]

    def mark(self, take: Take | None, first: int | None, last: int | None) -> Update:
        """The strip, with the frames that edits take where these are chosen."""
        return self.settle(take, first, last)[0]

    def settle(self, take: Take | None, first: int | None, last: int | None) -> list[Update]:
        """The same, and first and last as edits take them."""
        if take is None or first is None or last is None:  # while a number is being typed
            return [gr.skip()] * 3
        return _marked(take, (first, last))

    def choose_decoder(
        self,
        decoder: str,
        take: Take | None,
        wished: str | None,
        first: int = 0,
        last: int = 0,
    ) -> list[Update]:
        """speaker, shift, the group of a voice's recording, note, and what `show` gives."""
        model = self.models.decoder(decoder)
        names, melody = described_voices(model), model.kind.melody is not None
        known = None if take is None else session.recoded(model, take)
        controls = [
            gr.update(choices=names, value=_voice(model, known, wished), visible=bool(names)),
            gr.update(visible=melody, value=0),
            gr.update(visible=bool(names)),
            self._note(decoder, known),
        ]
        if known is not take and take is not None and take.edits:
            gr.Info("This decoder has other codes: the recording is encoded anew, without edits.")
        span = (first, last) if last and known is take else None
        return [*controls, *self.show(known, decoder, span)]

    def convert(
        self,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - so gradio finds it
        *settings: Any,  # noqa: ANN401
    ) -> list[Update]:
        """sounds, note: what was recorded, its codes in the nearest voice, and in the chosen.

        settings: decoder, take, speaker, shift, the recording of a voice, seed, and the temperature
        as a text.
        """
        decoder, take, speaker, shift, like, seed, temperature = settings
        model = self.models.decoder(decoder)
        known = session.recoded(model, self._needed(take))
        like = like if voices(model) else None  # which was given for another decoder
        chosen = Voice(speaker, shift, self._sampling(seed, _temperature(temperature)), like)
        progress(0.0, desc="decoding" if decoder in self.compiled else COMPILING)

        def follow(share: float) -> None:
            progress(share, desc="decoding")

        recorded, others = session.versions(model, known, chosen, follow)
        self.compiled.add(decoder)
        return [pictures.cards([recorded, *others], known.name), gr.update(visible=False)]

    def edit(self, decoder: str, what: str, number: int, *stretches: Any) -> list[Update]:  # noqa: ANN401
        """take, strip, sounds, first, last, other, the other's strip, first, last.

        stretches: take, first, last, and the other's. The stretches stay chosen; one that was put
        in is chosen as it is there.
        """
        given, first, last, other, begin, end = stretches
        known, longest = self._needed(given), self.limits.seconds
        coded, span, taken = known.coded, editing.settled(known.coded, (first, last)), None
        if what in (SUBSTITUTE, SWAP):
            second = self._needed(other, "second recording")
            taken = editing.settled(second.coded, (begin, end))
            if what == SWAP:
                coded, others = editing.swap(coded, span, second.coded, taken)
                other = second.edited(others, longest)
            else:
                coded = editing.substitute(coded, span, second.coded, taken)
            size, put = span[1] - span[0], taken[1] - taken[0]
            span = span[0], span[0] + put
            taken = taken[0], taken[0] + (size if what == SWAP else put)
        elif what == REPEAT:
            coded = editing.repeat(coded, span, number)
        elif what == FILL:
            coded = editing.fill(coded, span, number)
        else:
            coded = editing.cut(coded, span)
        shown = self.show(known.edited(coded, longest), decoder, span)
        if taken is None:
            return [*shown, *[gr.skip()] * 4]
        return [*shown, *self.show_other(other, taken)]

    def undo(self, take: Take | None, decoder: str, first: int, last: int) -> list[Update]:
        """take, strip, sounds, first, last."""
        return self.show(self._needed(take).undone(), decoder, (first, last))

    def read_other(self, path: str | None, decoder: str, name: str | None = None) -> list[Update]:
        """other, the other's strip, first, last."""
        if path is None:
            return self.show_other(None)
        model = self.models.decoder(decoder)
        return self.show_other(session.read_take(model, Path(path), self.limits.seconds, name))

    def read_other_sample(self, title: str | None, decoder: str) -> list[Update]:
        """The same of an example, which the second recorder shows, too."""
        if title is None:
            return [gr.skip()] * 5
        path = str(sample(title))
        return [path, *self.read_other(path, decoder, plain(title))]

    def read_like(self, path: str | None) -> Recording | None:
        """The recording of a voice."""
        return None if path is None else session.read_recording(Path(path), self.limits.seconds)

    def show_other(self, take: Take | None, span: Span | None = None) -> list[Update]:
        """other, its strip, first, last."""
        return [take, *_marked(take, span)]

    def choose_edit(self, what: str) -> list[Update]:
        """number, the group of the second recording."""
        label, value = ("times", 2) if what == REPEAT else ("code", 0)
        number = gr.update(label=label, value=value, visible=what in (REPEAT, FILL))
        return [number, gr.update(visible=what in (SUBSTITUTE, SWAP))]

    def generate(
        self, prior: str, decoder: str, wished: str | None, seed: float | None, *values: str
    ) -> list[Update]:
        """audio, decoder, and what `choose_decoder` gives."""
        model = self.models.prior(prior)
        assert model.prior is not None
        labels = dict(zip(model.prior.labels, values, strict=True))
        take = session.generate(model, labels, self._sampling(seed))
        if self.models.decoder(decoder).fingerprint != model.fingerprint:
            fitting = (
                name
                for name, each in self.models.decoders.items()
                if each.fingerprint == model.fingerprint
            )
            decoder = next(fitting, decoder)
        return [None, decoder, *self.choose_decoder(decoder, take, wished)]

    def _note(self, decoder: str, take: Take | None) -> Update:
        """Whether the first conversion has to compile something."""
        if take is not None and decoder not in self.compiled:
            model = self.models.decoder(decoder)
            if session.is_compiled(model, take.source, self.sampling):
                self.compiled.add(decoder)
        return gr.update(visible=take is not None and decoder not in self.compiled)

    def _sampling(self, seed: float | None, temperature: float | None = None) -> Sampling:
        """Raises UserInputError for a seed that is none."""
        number = inputs.whole_number(seed, "seed", 0)
        return replace(self.sampling, seed=number, temperature=temperature)

    def _needed(self, take: Take | None, what: str = "recording") -> Take:
        if take is None:
            raise UserInputError(f"no {what} yet, expected one: record, drop or choose it")
        return take


def _marked(take: Take | None, span: Span | None) -> list[Update]:
    """strip, first, last: the stretch that a span stands for, of none the middle third."""
    if take is None:
        return ["", *[gr.update(visible=False)] * 2]
    frames = take.coded.codes.shape[1]
    first, last = editing.settled(take.coded, span or (frames // 3, 2 * frames // 3))
    sliders = [gr.update(maximum=frames, value=place, visible=True) for place in (first, last)]
    return [pictures.strip(take, (first, last)), *sliders]


def _voice(model: SpeechModel, take: Take | None, wished: str | None) -> str | None:
    """The one that was chosen, if the model has it."""
    return wished if wished in voices(model) else session.default_voice(model, take)


def _temperature(text: str) -> float | None:
    """None for an empty text: the model's own. Raises UserInputError."""
    try:
        return float(text.replace(",", ".")) if text.strip() else None
    except ValueError:
        raise UserInputError(f"temperature {text!r}: expected a number") from None
