"""The page: gradio components around `session`, `editing` and `pictures`."""

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
from vqwave.app.models import Models, described_voices, summary
from vqwave.app.samples import TITLES, sample
from vqwave.app.session import Recording, Take, Voice
from vqwave.decode.backend import choose
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.errors import UserInputError, under
from vqwave.failures import in_a_line, reported
from vqwave.inference.speech_model import SpeechModel
from vqwave.terminal import message

HERE = Path(__file__).parent
TITLE = (
    "<h1>vqwave</h1><p>Speech as discrete codes. Record something, look at its codes, edit them,"
    " and decode them in another voice.</p>"
)
EMPTY = Markup('<p class="vq-empty">Record, drop or choose a recording.</p>')
DECODE = Markup('<p class="vq-empty">Press Convert to decode these codes.</p>')
COMPILING = "compiling the decoder, up to a minute"
COLD = (
    "The first conversion by this decoder compiles it, which takes up to a minute, once on a"
    " machine."
)
REPEAT, CUT, FILL = "repeat", "cut", "set to one code"
SUBSTITUTE, SWAP = "replace by the second's", "exchange with the second's"
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # one computation at a time
QUICK = {"queue": False, "show_progress": "hidden"}
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
        self.compiled: set[str] = set()  # decoders that have been used, or are not compiled
        for name, model in models.decoders.items():
            with under(name):
                if choose(model.decoder, sampling.backend).backend == "reference":
                    self.compiled.add(name)

    def read(self, path: str | None, decoder: str) -> list[Update]:
        """A file that was recorded or dropped -> take, strip, sounds, first, last."""
        if path is None:
            return self.show(None, decoder)
        model = self.models.decoder(decoder)
        return self.show(session.read_take(model, Path(path), self.limits.seconds), decoder)

    def read_sample(self, title: str, decoder: str) -> list[Update]:
        """The same of one that comes along, which the recorder shows, too."""
        path = str(sample(title))
        return [path, *self.read(path, decoder)]

    def show(self, take: Take | None, decoder: str) -> list[Update]:
        """take, strip, sounds, first, last; without a take all are empty."""
        if take is None:
            return [None, "", EMPTY, gr.update(), gr.update()]
        model, frames = self.models.decoder(decoder), take.coded.codes.shape[1]
        span = frames // 3, max(frames // 3 + 1, 2 * frames // 3)
        cards = pictures.cards([session.original(model, take)], take.name)
        sliders = [gr.update(maximum=frames, value=place) for place in span]
        return [take, pictures.strip(take, span), cards + DECODE, *sliders]

    def mark(self, take: Take | None, first: int, last: int) -> Update:
        """The strip, with the frames that are chosen."""
        return "" if take is None else pictures.strip(take, (first, max(first + 1, last)))

    def choose_decoder(self, decoder: str, take: Take | None) -> list[Update]:
        """speaker, shift, note, take, strip, sounds, first, last."""
        model = self.models.decoder(decoder)
        names, melody = described_voices(model), model.kind.melody is not None
        controls = [
            gr.update(choices=names, value=_first(names), visible=bool(names)),
            gr.update(visible=melody, value=0),
            gr.update(visible=decoder not in self.compiled),
        ]
        known = None if take is None else session.recoded(model, take)
        if known is not take and take is not None and take.edits:
            gr.Info("This decoder has other codes: the recording is encoded anew, without edits.")
        return [*controls, *self.show(known, decoder)]

    def convert(
        self,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - so gradio finds it
        *asked: Any,  # noqa: ANN401
    ) -> list[Update]:
        """sounds, note: what was recorded, its codes in the nearest voice, and in the chosen.

        asked: decoder, take, speaker, shift, the recording of a voice, seed, and the temperature as
        a text.
        """
        decoder, take, speaker, shift, like, seed, temperature = asked
        chosen = Voice(speaker, shift, self._sampling(seed, _temperature(temperature)), like)
        known, model = self._needed(take), self.models.decoder(decoder)
        progress(0.0, desc="decoding" if decoder in self.compiled else COMPILING)

        def follow(share: float) -> None:
            progress(share, desc="decoding")

        recorded, others = session.versions(model, known, chosen, follow)
        self.compiled.add(decoder)
        return [pictures.cards([recorded, *others], known.name), gr.update(visible=False)]

    def edit(self, decoder: str, what: str, number: int, *stretches: Any) -> list[Update]:  # noqa: ANN401
        """take, strip, sounds, first, last, other, the other's strip, first, last.

        stretches: take, first, last, and the other's.
        """
        given, first, last, other, *other_span = stretches
        known, longest = self._needed(given), self.limits.seconds
        coded, span = known.coded, (first, last)
        if what in (SUBSTITUTE, SWAP):
            second = self._needed(other, "second recording")
            begin, end = other_span
            if what == SWAP:
                coded, others = editing.swap(coded, span, second.coded, (begin, end))
                other = second.edited(others, longest)
            else:
                coded = editing.substitute(coded, span, second.coded, (begin, end))
        elif what == REPEAT:
            coded = editing.repeat(coded, span, number)
        elif what == FILL:
            coded = editing.fill(coded, span, number)
        else:
            coded = editing.cut(coded, span)
        return [*self.show(known.edited(coded, longest), decoder), *self.show_other(other)]

    def undo(self, take: Take | None, decoder: str) -> list[Update]:
        """take, strip, sounds, first, last."""
        return self.show(self._needed(take).undone(), decoder)

    def read_other(self, path: str | None, decoder: str) -> list[Update]:
        """other, the other's strip, first, last."""
        if path is None:
            return self.show_other(None)
        model = self.models.decoder(decoder)
        return self.show_other(session.read_take(model, Path(path), self.limits.seconds))

    def read_other_sample(self, title: str, decoder: str) -> list[Update]:
        """The same of one that comes along, which the second recorder shows, too."""
        path = str(sample(title))
        return [path, *self.read_other(path, decoder)]

    def read_like(self, path: str | None) -> Recording | None:
        """The recording of a voice."""
        return None if path is None else session.read_recording(Path(path), self.limits.seconds)

    def show_other(self, take: Take | None) -> list[Update]:
        """other, its strip, first, last."""
        if take is None:
            return [None, "", gr.update(), gr.update()]
        frames = take.coded.codes.shape[1]
        span = frames // 3, max(frames // 3 + 1, 2 * frames // 3)
        sliders = [gr.update(maximum=frames, value=place) for place in span]
        return [take, pictures.strip(take, span), *sliders]

    def choose_edit(self, what: str) -> list[Update]:
        """number, the group of the second recording."""
        label, value = ("times", 2) if what == REPEAT else ("code", 0)
        number = gr.update(label=label, value=value, visible=what in (REPEAT, FILL))
        return [number, gr.update(visible=what in (SUBSTITUTE, SWAP))]

    def say(self, prior: str, decoder: str, seed: float | None, *values: str) -> list[Update]:
        """audio, decoder, speaker, shift, note, take, strip, sounds, first, last."""
        model = self.models.prior(prior)
        assert model.prior is not None
        labels = dict(zip(model.prior.labels, values, strict=True))
        take = session.say(model, labels, self._sampling(seed))
        if self.models.decoder(decoder).fingerprint != model.fingerprint:
            fitting = (
                name
                for name, each in self.models.decoders.items()
                if each.fingerprint == model.fingerprint
            )
            decoder = next(fitting, decoder)
        return [None, decoder, *self.choose_decoder(decoder, take)]

    def _sampling(self, seed: float | None, temperature: float | None = None) -> Sampling:
        """Raises UserInputError for a seed that is none."""
        number = inputs.whole_number(seed, "seed", 0)
        return replace(self.sampling, seed=number, temperature=temperature)

    def _needed(self, take: Take | None, what: str = "recording") -> Take:
        if take is None:
            raise UserInputError(f"no {what} yet, expected one: record, drop or choose it")
        return take


def build(models: Models, limits: Limits, sampling: Sampling = DEFAULT) -> gr.Blocks:
    """The page of these models."""
    return Layout(Handlers(models, limits, sampling)).blocks


class Layout:
    """The components, and which handler has which of them."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers, self.models, self.limits = handlers, handlers.models, handlers.limits
        with gr.Blocks(
            title="vqwave", analytics_enabled=False, delete_cache=(600, 3600)
        ) as self.blocks:
            self.take = gr.State(None, time_to_live=3600)
            self.other = gr.State(None, time_to_live=3600)
            self.like = gr.State(None, time_to_live=3600)
            gr.HTML(TITLE, elem_classes="vq-title")
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._recording()
                    self._voice()
                with gr.Column(scale=5, min_width=300):
                    self._results()
                    with gr.Accordion("Edit the codes", open=False):
                        self._editor()
                    for name, model in self.models.priors.items():
                        with gr.Accordion(f"Say a word ({name})", open=False):
                            self._prior(name, model)
            self._connect()
        self.blocks.queue(max_size=self.limits.waiting, default_concurrency_limit=1)

    @property
    def shown(self) -> list[Any]:
        """What `Handlers.show` gives."""
        return [self.take, self.strip, self.sounds, self.first, self.last]

    def _recording(self) -> None:
        self.audio = gr.Audio(
            sources=["microphone", "upload"],
            type="filepath",
            label=f"Recording, at most {self.limits.seconds:g} s",
            buttons=[],
            editable=False,
            elem_id="recording",
        )
        self.sample = gr.Dropdown(
            list(TITLES), value=None, label="or one that comes along", elem_id="sample"
        )

    def _voice(self) -> None:
        decoders = self.models.decoders
        name, model = next(iter(decoders.items()))
        names = described_voices(model)
        self.decoder = gr.Radio(
            [(summary(*each), each[0]) for each in decoders.items()],
            value=name,
            label="Decoder",
            elem_id="decoder",
        )
        self.speaker = gr.Dropdown(
            names,
            value=_first(names),
            label="Voice",
            visible=bool(names),
            elem_id="speaker",
        )
        with gr.Accordion("or a voice like that of a recording", open=False):
            self.like_audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Whose voice",
                buttons=[],
                editable=False,
            )
        self.shift = gr.Slider(
            -12,
            12,
            0,
            step=0.5,
            label="Pitch shift, semitones",
            visible=model.kind.melody is not None,
        )
        with gr.Row():
            self.temperature = gr.Textbox(
                "", label="Temperature", placeholder="the model's own", max_lines=1, min_width=120
            )
            self.seed = gr.Number(0, precision=0, label="Seed", min_width=120)
        self.convert = gr.Button("Convert", variant="primary", elem_id="convert")
        cold = name not in self.handlers.compiled
        self.note = gr.Markdown(COLD, visible=cold, elem_classes="vq-note")

    def _results(self) -> None:
        strip = (HERE / "strip.js").read_text(encoding="utf-8")
        self.strip = gr.HTML("", js_on_load=strip, elem_id="strip")
        self.sounds = gr.HTML(EMPTY, js_on_load=None, elem_id="sounds")

    def _editor(self) -> None:
        gr.Markdown(
            "Draw over the strip of codes above, or move the sliders, to choose a stretch.",
            elem_classes="vq-note",
        )
        self.first, self.last = _span("First frame", "End, exclusive")
        with gr.Row():
            self.what = gr.Radio(
                [REPEAT, CUT, FILL, SUBSTITUTE, SWAP],
                value=REPEAT,
                label="The stretch is to",
                scale=3,
                elem_id="edit",
            )
            self.number = gr.Number(2, precision=0, label="times", min_width=90)
        with gr.Group(visible=False) as self.second:
            self.other_audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Second recording",
                buttons=[],
                editable=False,
            )
            self.other_sample = gr.Dropdown(
                list(TITLES), value=None, label="or one that comes along", elem_id="other-sample"
            )
            self.other_strip = gr.HTML("", js_on_load=None, padding=True)
            self.other_first, self.other_last = _span("Its first frame", "Its end, exclusive")
        with gr.Row():
            self.apply = gr.Button("Apply", elem_id="apply", min_width=90)
            self.undo = gr.Button("Undo", min_width=90)
            self.again = gr.Button("Convert", variant="primary", min_width=90)

    def _prior(self, name: str, model: SpeechModel) -> None:
        assert model.prior is not None
        with gr.Row():
            labels = [
                gr.Dropdown(values, value=values[0], label=label, min_width=120)
                for label, values in model.prior.labels.items()
            ]
            seed = gr.Number(0, precision=0, label="Seed", min_width=90)
        button = gr.Button("Say", elem_id=f"say-{name}")
        chosen = [self.audio, self.decoder, self.speaker, self.shift, self.note, *self.shown]
        say = functools.partial(self.handlers.say, name)
        button.click(in_words(say), [self.decoder, seed, *labels], chosen, **MODEL)

    def _connect(self) -> None:
        do, other = self.handlers, [self.other, self.other_strip, self.other_first, self.other_last]
        self.audio.input(in_words(do.read), [self.audio, self.decoder], self.shown, **MODEL)
        self.audio.clear(in_words(do.read), [self.audio, self.decoder], self.shown, **MODEL)
        self.sample.input(
            in_words(do.read_sample),
            [self.sample, self.decoder],
            [self.audio, *self.shown],
            **MODEL,
        )
        self.decoder.input(
            in_words(do.choose_decoder),
            [self.decoder, self.take],
            [self.speaker, self.shift, self.note, *self.shown],
            **MODEL,
        )
        for event in (self.like_audio.input, self.like_audio.clear):
            event(in_words(do.read_like), self.like_audio, self.like, **MODEL)
        voice = [self.speaker, self.shift, self.like, self.seed, self.temperature]
        asked = [self.decoder, self.take, *voice]
        for button in (self.convert, self.again):
            button.click(in_words(do.convert), asked, [self.sounds, self.note], **MODEL)
        for slider in (self.first, self.last):
            slider.input(do.mark, [self.take, self.first, self.last], self.strip, **QUICK)
        self.strip.select(_chosen, None, [self.first, self.last], **QUICK).then(
            do.mark, [self.take, self.first, self.last], self.strip, **QUICK
        )
        self.what.input(do.choose_edit, self.what, [self.number, self.second], **QUICK)
        stretches = [self.take, self.first, self.last]
        stretches += [self.other, self.other_first, self.other_last]
        self.apply.click(
            in_words(do.edit),
            [self.decoder, self.what, self.number, *stretches],
            [*self.shown, *other],
            **MODEL,
        )
        self.undo.click(in_words(do.undo), [self.take, self.decoder], self.shown, **MODEL)
        self.other_audio.input(
            in_words(do.read_other), [self.other_audio, self.decoder], other, **MODEL
        )
        self.other_sample.input(
            in_words(do.read_other_sample),
            [self.other_sample, self.decoder],
            [self.other_audio, *other],
            **MODEL,
        )
        for slider in (self.other_first, self.other_last):
            slider.input(
                do.mark, [self.other, self.other_first, self.other_last], self.other_strip, **QUICK
            )


def _span(first: str, last: str) -> tuple[gr.Slider, gr.Slider]:
    """Two sliders of frames."""
    with gr.Row():
        start = gr.Slider(0, 1, 0, step=1, label=first, min_width=140)
        return start, gr.Slider(0, 1, 1, step=1, label=last, min_width=140)


def _first(choices: list[tuple[str, str]]) -> str | None:
    """The value of the first choice, None where there is none."""
    return choices[0][1] if choices else None


def _temperature(text: str) -> float | None:
    """None for an empty text: the model's own. Raises UserInputError."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise UserInputError(f"temperature {text!r}: expected a number") from None


def _chosen(event: gr.EventData) -> tuple[int, int]:
    """The stretch that was drawn over a strip."""
    return event.first, event.last
