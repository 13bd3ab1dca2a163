"""The page: gradio components, and which handler each of them has."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gradio as gr

from vqwave import speaker_encoder
from vqwave.app.handlers import (
    CUT,
    EMPTY,
    FILL,
    REPEAT,
    SUBSTITUTE,
    SWAP,
    Handlers,
    Limits,
    Update,
    in_words,
)
from vqwave.app.models import Models, described_voices, prior_choices, summary
from vqwave.app.samples import TITLES
from vqwave.app.session import default_voice
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.inference.speech_model import SpeechModel

HERE = Path(__file__).parent
STRIP = (HERE / "strip.js").read_text(encoding="utf-8")
TITLE = (
    "<h1>vqwave</h1><p>Speech as discrete codes. Record something, look at its codes, edit them,"
    " and decode them in another voice.</p>"
)
COLD = "The first conversion by this decoder compiles it: up to a minute, once on this machine."
NO_VOICES = (
    "The page cannot take a voice from a recording: whoever runs it has to install the extra"
    " `voices`, `pip install 'vqwave[voices]'`."
)
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # one computation at a time
LATEST = {"trigger_mode": "always_last"}  # what changes while its event is at work counts, too
QUICK = {"queue": False, "show_progress": "hidden", **LATEST}


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
            self.wished = gr.State(None)  # the voice that the visitor chose
            gr.HTML(TITLE, elem_classes="vq-title")
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._recording()
                    self._voice()
                with gr.Column(scale=5, min_width=300):
                    self._results()
                    with gr.Accordion(
                        "Edit the codes", open=False, elem_id="editor"
                    ) as self.editor:
                        self._editor()
                    for name, model in self.models.priors.items():
                        what = "a word" if "text" in prior_choices(model) else "speech"
                        with gr.Accordion(f"Generate {what} ({name})", open=False):
                            self._prior(name, model)
            self._connect()
        self.blocks.queue(max_size=self.limits.waiting, default_concurrency_limit=1)

    @property
    def shown(self) -> list[Any]:
        """What `Handlers.show` gives."""
        return [self.take, self.strip, self.sounds, self.first, self.last]

    @property
    def of_decoder(self) -> list[Any]:
        """What `Handlers.choose_decoder` gives."""
        return [self.speaker, self.shift, self.of_recording, self.note, *self.shown]

    def _recording(self) -> None:
        self.audio = gr.Audio(
            sources=["microphone", "upload"],
            type="filepath",
            label=f"Recording, at most {self.limits.seconds:g} s",
            buttons=[],
            editable=False,
            elem_id="recording",
        )
        self.sample = gr.Dropdown(list(TITLES), value=None, label="or an example", elem_id="sample")

    def _voice(self) -> None:
        decoders = self.models.decoders
        name, model = next(iter(decoders.items()))
        names = described_voices(model)
        self.decoder = gr.Dropdown(
            [(summary(*each), each[0]) for each in decoders.items()],
            value=name,
            label="Decoder",
            elem_id="decoder",
        )
        self.speaker = gr.Dropdown(
            names,
            value=default_voice(model),
            label="Voice",
            visible=bool(names),
            elem_id="speaker",
        )
        with gr.Accordion(
            "or the voice of a recording", open=False, visible=bool(names), elem_id="like"
        ) as self.of_recording:
            offered = speaker_encoder.installed() is not None
            gr.Markdown(NO_VOICES, visible=not offered, elem_classes="vq-note")
            self.like_audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Whose voice",
                buttons=[],
                editable=False,
                visible=offered,
            )
        self.shift = gr.Slider(
            -12,
            12,
            0,
            step=0.5,
            label="Pitch shift, semitones",
            visible=model.kind.melody is not None,
        )
        with gr.Accordion("Temperature, seed", open=False), gr.Row():
            self.temperature = gr.Textbox(
                "", label="Temperature", placeholder="default", max_lines=1, min_width=120
            )
            self.seed = gr.Number(0, precision=0, label="Seed", min_width=120)
        self.convert = gr.Button("Convert", variant="primary", elem_id="convert")
        self.note = gr.Markdown(COLD, visible=False, elem_classes="vq-note")

    def _results(self) -> None:
        self.strip = gr.HTML("", js_on_load=STRIP, elem_id="strip")
        self.sounds = gr.HTML(EMPTY, js_on_load=None, elem_id="sounds")

    def _editor(self) -> None:
        gr.Markdown(
            "Draw over the strip of codes, or move the sliders, to choose a stretch.",
            elem_classes="vq-note",
        )
        self.first, self.last = _span("First frame", "End, exclusive")
        with gr.Row():
            self.what = gr.Radio(
                [REPEAT, CUT, FILL, SUBSTITUTE, SWAP],
                value=REPEAT,
                label="What to do with the stretch",
                scale=3,
                elem_id="edit",
            )
            self.number = gr.Number(2, precision=0, label="times", min_width=90)
        with gr.Column(visible=False) as self.second:
            self.other_audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Second recording",
                buttons=[],
                editable=False,
            )
            self.other_sample = gr.Dropdown(
                list(TITLES), value=None, label="or an example", elem_id="other-sample"
            )
            self.other_strip = gr.HTML("", js_on_load=STRIP, elem_id="other-strip")
            self.other_first, self.other_last = _span("Its first frame", "Its end, exclusive")
        with gr.Row():
            self.apply = gr.Button("Apply", elem_id="apply", min_width=90)
            self.undo = gr.Button("Undo", min_width=90)
            self.again = gr.Button("Convert", variant="primary", min_width=90)

    def _prior(self, name: str, model: SpeechModel) -> None:
        with gr.Row():
            labels = [
                gr.Dropdown(each, value=each[0][1], label=label, min_width=120)
                for label, each in prior_choices(model).items()
            ]
            seed = gr.Number(0, precision=0, label="Seed", min_width=90)
        button = gr.Button("Generate", elem_id=f"generate-{name}")
        generate = functools.partial(self.handlers.generate, name)
        button.click(
            in_words(generate),
            [self.decoder, self.wished, seed, *labels],
            [self.audio, self.decoder, *self.of_decoder],
            **MODEL,
        )

    def _connect(self) -> None:
        do, other = self.handlers, [self.other, self.other_strip, self.other_first, self.other_last]
        latest = MODEL | LATEST
        read = [self.speaker, self.note, *self.shown]
        self.audio.input(in_words(do.read), [self.audio, self.decoder, self.wished], read, **latest)
        self.sample.input(
            in_words(do.read_sample),
            [self.sample, self.decoder, self.wished],
            [self.audio, *read],
            **latest,
        ).success(None, self.sample, None, js=f"(title) => title && {_show('.vq-strip')}")
        self.speaker.input(_given, self.speaker, self.wished, **QUICK)
        self.decoder.input(
            in_words(do.choose_decoder),
            [self.decoder, self.take, self.wished, self.first, self.last],
            self.of_decoder,
            **latest,
        )
        self.like_audio.input(in_words(do.read_like), self.like_audio, self.like, **latest)
        voice = [self.speaker, self.shift, self.like, self.seed, self.temperature]
        settings = [self.decoder, self.take, *voice]
        for button in (self.convert, self.again):
            button.click(None, None, None, js=f"() => {_show('#sounds:has(.vq-card)')}")
            button.click(in_words(do.convert), settings, [self.sounds, self.note], **MODEL).success(
                None, None, None, js=f"() => {_show('#sounds .vq-card:last-child')}"
            )
        self._connect_stretch(self.take, self.strip, self.first, self.last)
        self._connect_stretch(self.other, self.other_strip, self.other_first, self.other_last)
        self.strip.select(_open, None, self.editor, **QUICK)
        self.what.input(do.choose_edit, self.what, [self.number, self.second], **QUICK)
        stretches = [self.take, self.first, self.last]
        stretches += [self.other, self.other_first, self.other_last]
        self.apply.click(
            in_words(do.edit),
            [self.decoder, self.what, self.number, *stretches],
            [*self.shown, *other],
            **MODEL,
        )
        self.undo.click(
            in_words(do.undo),
            [self.take, self.decoder, self.first, self.last],
            self.shown,
            **MODEL,
        )
        self.other_audio.input(
            in_words(do.read_other), [self.other_audio, self.decoder], other, **latest
        )
        self.other_sample.input(
            in_words(do.read_other_sample),
            [self.other_sample, self.decoder],
            [self.other_audio, *other],
            **latest,
        )

    def _connect_stretch(
        self, take: gr.State, strip: gr.HTML, first: gr.Slider, last: gr.Slider
    ) -> None:
        """What is drawn over a strip or set by its sliders: whole pitch codes, once it is done."""
        do, given, shown = self.handlers, [take, first, last], [strip, first, last]
        for slider in (first, last):
            slider.input(do.mark, given, strip, **QUICK)
            slider.release(do.settle, given, shown, **QUICK)
        strip.select(_chosen, None, [first, last], **QUICK).then(do.mark, given, strip, **QUICK)


def _span(first: str, last: str) -> tuple[gr.Slider, gr.Slider]:
    """Two sliders of frames, once there are any."""
    hidden = {"step": 1, "min_width": 140, "visible": False, "buttons": []}
    with gr.Row():
        return gr.Slider(0, 1, 0, label=first, **hidden), gr.Slider(0, 1, 1, label=last, **hidden)


def _show(place: str) -> str:
    """JavaScript that brings a place into view, if it is not: on a phone all is one column."""
    return f'vqwave.show("{place}")'


def _given(value: str | None) -> str | None:
    """As it is."""
    return value


def _open() -> Update:
    return gr.update(open=True)


def _chosen(event: gr.EventData) -> tuple[int, int]:
    """The stretch that was drawn over a strip."""
    return event.first, event.last
