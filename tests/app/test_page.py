"""The page's handlers, without a browser: values in, updates out, errors as lines."""

from __future__ import annotations

import inspect
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import RATE, VQVAE, WAVENET

from vqwave.app import session
from vqwave.app.models import Models
from vqwave.cli import main
from vqwave.decode.sampling import Sampling
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.nn.condition import ConditionerSpec

gradio = pytest.importorskip("gradio", reason="gradio (extra app) is not installed")
handlers = pytest.importorskip("vqwave.app.handlers")
page = pytest.importorskip("vqwave.app.page")
server = pytest.importorskip("vqwave.app.server")

NAME = "small"


@pytest.fixture(scope="module")
def do(model: SpeechModel) -> handlers.Handlers:
    models = Models({NAME: model, "other": model}, {})
    return handlers.Handlers(models, handlers.Limits(seconds=2.0), Sampling(backend="reference"))


def shown(do: handlers.Handlers, path: Path) -> list[object]:
    """take, strip, sounds, first, last of a recording."""
    return do.read(str(path), NAME, None)[2:]


def converted(do: handlers.Handlers, *settings: object) -> list[object]:
    return do.convert(gradio.Progress(), *settings)


def test_a_recording_is_shown_with_its_codes(do: handlers.Handlers, recording: Path) -> None:
    take, strip, sounds, first, last = shown(do, recording)
    assert take.name == "rising"  # an example has the name that is chosen
    assert do.read_sample("“three”", NAME, None)[3].name == "three"
    assert do.read_other_sample("“seven”", NAME)[1].name == "seven"
    assert strip.count("<rect") == 37 + 10
    assert sounds.count("<audio") == 1
    assert (first["maximum"], first["value"], last["value"]) == (37, 12, 24)
    assert first["visible"]
    _, _, take, *_, first, last = do.read(None, NAME, None)
    assert take is None
    assert not first["visible"]


def test_a_conversion_is_three_players_and_files(do: handlers.Handlers, brief: Path) -> None:
    take = shown(do, brief)[0]
    sounds, note = converted(do, NAME, take, "high", 2.0, None, 0, "0.5")
    assert sounds.count("<audio") == sounds.count('class="vq-spectrum"') == 3
    assert sounds == converted(do, NAME, take, "high", 2.0, None, 0, " 0,5")[0]
    assert re.findall(r'download="([^"]*)"', sounds)[2] == (
        "brief.conversion to high, +2 semitones.wav"
    )
    assert note["visible"] is False  # it is compiled now
    assert "http" not in re.sub(r"data:[^\"]*", "", sounds)


def test_a_voice_is_chosen_by_the_recording_or_by_the_visitor(
    do: handlers.Handlers, recording: Path
) -> None:
    nearest = session.nearest_voice(do.models.decoder(NAME), shown(do, recording)[0])
    other = {"low": "high", "high": "low"}[nearest]
    for wished, name in ((None, other), ("low", "low"), ("high", "high"), ("anna", other)):
        speaker, _, take, *_ = do.read(str(recording), NAME, wished)
        assert speaker["value"] == name
        assert do.choose_decoder("other", take, wished)[0]["value"] == name


def test_a_note_says_that_something_has_to_be_compiled(
    model: SpeechModel, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for compiled in (False, True):
        monkeypatch.setattr(session, "is_compiled", lambda *_, known=compiled: known)
        do = handlers.Handlers(Models({NAME: model}, {}), handlers.Limits())
        assert not do.choose_decoder(NAME, None, None)[3]["visible"]  # nothing to convert
        _, note, take, *_ = do.read(str(recording), NAME, None)
        assert note["visible"] is not compiled
        assert do.choose_decoder(NAME, take, None)[3]["visible"] is not compiled


@pytest.mark.parametrize("folder", [None, Path("resemblyzer")])
def test_a_recordings_voice_is_offered_where_it_can_be_taken(
    folder: Path | None, do: handlers.Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqwave.speaker_encoder.installed", lambda: folder)
    layout = page.Layout(do)
    assert layout.like_audio.visible is (folder is not None)
    lines = [each for each in layout.of_recording.children if isinstance(each, gradio.Markdown)]
    assert [each.visible for each in lines] == [folder is None]
    assert "pip install 'vqwave[voices]'" in lines[0].value


def test_a_model_of_one_voice_takes_no_other(brief: Path) -> None:
    one_voice = replace(WAVENET, conditioner=ConditionerSpec(channels=4, categorical=()))
    spec = replace(VQVAE, decoder=one_voice)
    card = ModelCard(sample_rate=RATE, labels={}, spec=spec, about={})
    one = SpeechModel(spec.build(RATE, {}).eval(), card)
    do = handlers.Handlers(
        Models({NAME: one}, {}), handlers.Limits(), Sampling(backend="reference")
    )
    _, _, group, _, *_ = do.choose_decoder(NAME, None, None)
    assert not group["visible"]
    take = shown(do, brief)[0]
    sounds, _ = converted(do, NAME, take, None, 0, do.read_like(str(brief)), 0, "")
    assert sounds.count("<audio") == 2


def test_names_of_visitors_are_no_markup(do: handlers.Handlers, brief: Path) -> None:
    path = brief.with_name("<img src=x onerror=alert(1)>.wav")
    path.write_bytes(brief.read_bytes())
    take, strip, sounds, *_ = shown(do, path)
    assert "<img src=x" not in strip + sounds + converted(do, NAME, take, "low", 0, None, 0, "")[0]


@pytest.mark.parametrize(
    ("what", "frames"),
    [
        (handlers.REPEAT, 37 + 12),
        (handlers.CUT, 37 - 12),
        (handlers.FILL, 37),
        (handlers.SUBSTITUTE, 37 - 12 + 8),
        (handlers.SWAP, 37 - 12 + 8),
    ],
)
def test_edits_and_their_undoing(
    what: str, frames: int, do: handlers.Handlers, recording: Path, second: Path
) -> None:
    take, other = shown(do, recording)[0], do.read_other(str(second), NAME)[0]
    edited, strip, *_, again, _, _, _ = do.edit(NAME, what, 2, take, 12, 24, other, 0, 8)
    assert edited.coded.codes.shape[1] == frames
    assert f"{frames} frames" in strip
    if what in (handlers.SUBSTITUTE, handlers.SWAP):
        assert again.coded.codes.shape[1] == 25 + (4 if what == handlers.SWAP else 0)
    else:
        assert again == gradio.skip()
    assert do.undo(edited, NAME, 12, 24)[0].coded is take.coded


def chosen(strip: str) -> tuple[float, float]:
    """Where the mark on a strip begins and ends, in frames."""
    frames = int(re.findall(r'data-frames="(\d+)"', strip)[0])
    left, width = map(float, re.findall(r"left:([\d.]+)%;width:([\d.]+)%", strip)[0])
    return round(frames * left / 100, 2), round(frames * (left + width) / 100, 2)


@pytest.mark.parametrize(
    ("what", "given", "kept", "others"),
    [
        (handlers.REPEAT, (4, 8), (4, 8), None),
        (handlers.FILL, (4, 8), (4, 8), None),
        (handlers.CUT, (4, 8), (4, 8), None),
        (handlers.CUT, (28, 37), (24, 28), None),  # the last of what is left
        (handlers.FILL, (5, 6), (4, 8), None),  # whole pitch codes
        (handlers.SUBSTITUTE, (4, 8), (4, 16), (0, 12)),  # what was put in
        (handlers.SWAP, (4, 8), (4, 16), (0, 4)),
    ],
)
def test_the_stretch_stays_chosen_after_an_edit(
    what: str,
    given: tuple[int, int],
    kept: tuple[int, int],
    others: tuple[int, int] | None,
    do: handlers.Handlers,
    recording: Path,
    second: Path,
) -> None:
    take, other = shown(do, recording)[0], do.read_other(str(second), NAME)[0]
    edited = do.edit(NAME, what, 2, take, *given, other, 0, 12)
    for strip, first, last, span in (edited[1], *edited[3:5], kept), (*edited[6:], others):
        if span is not None:
            assert (first["value"], last["value"]) == span
            assert chosen(strip) == pytest.approx(span, abs=0.01)
    if others is None:  # nothing about the second recording
        assert edited[5:] == [gradio.skip()] * 4
    undone = do.undo(edited[0], NAME, *kept)
    assert (undone[3]["value"], undone[4]["value"], undone[4]["maximum"]) == (*kept, 37)
    first, last = do.choose_decoder("other", edited[0], None, *kept)[-2:]
    assert (first["value"], last["value"]) == kept


@pytest.mark.parametrize(
    ("given", "edited"),
    [((5, 6), (4, 8)), ((34, 37), (32, 37)), ((9, 9), (8, 12)), ((30, 10), (28, 32))],
)
def test_the_frames_that_are_edited_are_shown(
    given: tuple[int, int], edited: tuple[int, int], do: handlers.Handlers, recording: Path
) -> None:
    take = shown(do, recording)[0]
    strip, first, last = do.settle(take, *given)
    assert chosen(strip) == chosen(do.mark(take, *given)) == pytest.approx(edited, abs=0.01)
    assert (first["value"], last["value"]) == edited
    codes = do.edit(NAME, handlers.FILL, 3, take, *given, None, 0, 1)[0].coded.codes[0]
    assert codes[slice(*edited)].unique().tolist() == [3]
    same = codes == take.coded.codes[0]
    assert same[: edited[0]].all()
    assert same[edited[1] :].all()


def test_nothing_happens_where_nothing_was_chosen(do: handlers.Handlers, recording: Path) -> None:
    """A list that was opened and left, a number that is being typed."""
    for updates in do.read_sample(None, NAME, None), do.read_other_sample(None, NAME):
        assert all(update == gradio.skip() for update in updates)
    take = shown(do, recording)[0]
    assert do.mark(take, None, 4) == do.mark(None, 0, 1) == gradio.skip()


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (lambda do, take: converted(do, NAME, None, "low", 0, None, 0, ""), "no recording yet"),
        (
            lambda do, take: converted(do, NAME, take, "low", 0, None, 0, "warm"),
            "expected a number",
        ),
        (lambda do, take: converted(do, NAME, take, "low", 99, None, 0, ""), "expected at most 48"),
        (lambda do, take: converted(do, NAME, take, "low", 0, None, 0, "-1"), "temperature"),
        (
            lambda do, take: converted(do, NAME, take, "low", 0, None, None, ""),
            "seed: None",
        ),
        (lambda do, take: converted(do, NAME, take, "low", 0, None, -1, ""), "seed: -1, expected"),
        (lambda do, take: converted(do, "nothing", take, "low", 0, None, 0, ""), "expected one of"),
        (
            lambda do, take: do.edit(NAME, handlers.CUT, 2, take, None, 9, None, 0, 1),
            "stretch: None, expected a whole number",
        ),
        (lambda do, take: do.edit(NAME, handlers.SWAP, 2, take, 1, 9, None, 0, 1), "no second"),
        (
            lambda do, take: do.edit(NAME, handlers.REPEAT, 20, take, 0, 37, None, 0, 1),
            "at most 2 s",
        ),
        (
            lambda do, take: do.read_sample("/etc/passwd", NAME, None),
            "expected one of &#x27;a sentence, a man&#x27;, &#x27;a sentence, a woman&#x27;, ",
        ),
    ],
)
def test_what_cannot_be_is_a_line_on_the_page(
    work: Callable[[handlers.Handlers, object], object],
    line: str,
    do: handlers.Handlers,
    recording: Path,
) -> None:
    take = shown(do, recording)[0]
    with pytest.raises(gradio.Error) as caught:
        handlers.in_words(lambda: work(do, take))()
    assert line in caught.value.message
    assert "Traceback" not in caught.value.message


def test_a_mistake_of_the_package_is_described_to_its_server_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(gradio.Error) as caught:
        handlers.in_words(lambda: 1 // 0)()
    assert "ZeroDivisionError" not in caught.value.message
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_lines_are_no_markup() -> None:
    def work() -> None:
        raise handlers.UserInputError("<b>.wav: empty")

    with pytest.raises(gradio.Error) as caught:
        handlers.in_words(work)()
    assert caught.value.message == "&lt;b&gt;.wav: empty"


def test_another_codec_is_encoded_anew(do: handlers.Handlers, recording: Path) -> None:
    take = shown(do, recording)[0]
    speaker, shift, _, _, again, *_ = do.choose_decoder("other", take, None)
    assert [name for _, name in speaker["choices"]] == ["low", "high"]
    assert speaker["choices"][0][0] == "low, pitch about 122 Hz"
    assert shift["visible"]
    assert again is take


def test_handlers_get_and_give_what_they_expect(do: handlers.Handlers) -> None:
    """Of each event: as many inputs as its handler takes, and the right ones."""
    layout = page.Layout(do)
    show = [layout.take, layout.strip, layout.sounds, layout.first, layout.last]
    read = [layout.speaker, layout.note, *show]
    voice = [layout.speaker, layout.shift, layout.like, layout.seed, layout.temperature]
    stretches = [layout.take, layout.first, layout.last]
    stretches += [layout.other, layout.other_first, layout.other_last]
    inputs = {
        "convert": [layout.decoder, layout.take, *voice],
        "edit": [layout.decoder, layout.what, layout.number, *stretches],
        "undo": [layout.take, layout.decoder, layout.first, layout.last],
        "choose_decoder": [layout.decoder, layout.take, layout.wished, *stretches[1:3]],
        "read": [layout.audio, layout.decoder, layout.wished],
    }
    outputs = {
        "convert": [layout.sounds, layout.note],
        "choose_decoder": [layout.speaker, layout.shift, layout.of_recording, layout.note, *show],
        "read": read,
        "read_sample": [layout.audio, *read],
        "undo": show,
    }
    assert layout.blocks.progress_tracking
    wired = set()
    for event in layout.blocks.fns.values():
        if event.fn is None:  # the browser's alone
            continue
        if event.name != "_chosen":  # which takes the event itself
            inspect.signature(event.fn).bind(*event.inputs)
        assert event.inputs == inputs.get(event.name, event.inputs), event.name
        assert event.outputs == outputs.get(event.name, event.outputs), event.name
        if any(kind == "input" for _, kind in event.targets):  # a quick second one is not lost
            assert event.trigger_mode == "always_last", event.name
        wired.add(event.name)
    public = {
        name for name in vars(handlers.Handlers) if not name.startswith(("_", "show", "generate"))
    }
    assert public <= wired


@pytest.mark.slow  # gradio's server takes seconds to start
def test_it_is_served_from_loopback_and_leaves_nothing(
    model: SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    until, addresses = threading.Event(), []

    def ready(address: str) -> None:
        addresses.append(address)
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode()
        assert "vqwave" in text
        assert "fonts.googleapis" not in text
        port = int(re.findall(r":(\d+)", address)[0])
        with pytest.raises(OSError):
            socket.create_connection((_own_address(), port), timeout=2).close()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}gradio_api/file=/etc/passwd")
        until.set()

    server.serve(Models({NAME: model}, {}), handlers.Limits(), ready=ready, until=until)
    assert addresses[0].startswith("http://127.0.0.1:")
    assert not list(tmp_path.iterdir())


def _own_address() -> str:
    """An address of this machine other than loopback; skips where there is none."""
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    others = [each for each in addresses if not each.startswith("127.") and ":" not in each]
    if not others:
        pytest.skip("this machine has no address but loopback")
    return others[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: no such model"),
        (["fsdd-student", "--host", "192.0.2.1"], "expected an address or a name of this machine"),
        (["--port", "0"], "--port 0: expected a number above 0"),
        (["--max-seconds", "-3"], "--max-seconds -3.0: expected a number above 0"),
        (["--max-seconds", "nan"], "expected a finite number"),
    ],
)
def test_the_command_refuses_in_a_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["app", *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_a_line(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["app", str(model_folder), "--port", str(port)])
    assert ended.value.code == 2
    assert f"127.0.0.1:{port}: cannot be served" in capsys.readouterr().err
