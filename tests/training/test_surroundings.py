"""What the process around the package may have set, or lack: it works, or a line says why not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from noise import noise_corpus
from small_experiment import SmallWaveNet
from small_models import stack

from vqwave.decode.sampling import Sampling
from vqwave.distributions import Gaussian
from vqwave.errors import Note, UserInputError
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import PriorSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import FSQuantizerSpec
from vqwave.training.command_line import main
from vqwave.training.tracking import Tracker, boards

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000
LABELS = {"speaker": ["ann", "bob"]}
ANN = {"speaker": "ann"}
SIZES = stack(4)
CONDITIONER = ConditionerSpec(channels=4)
TEACHER = WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=CONDITIONER)
STUDENT = StudentSpec(flows=(2,), network=SIZES, conditioner=CONDITIONER)
PLAIN = Sampling(backend="reference")


class Tiny(SmallWaveNet):
    model_spec = TEACHER


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_corpus(tmp_path_factory.mktemp("corpus"), takes=25, samples=400)


def settings(corpus: Path, run: Path, *more: str) -> list[str]:
    data = {
        "corpus": corpus,
        "clip_seconds": 0.02,
        "batch": 2,
        "valid_clip_seconds": 0.02,
        "valid_clips": 2,
    }
    train = {"steps": 3, "log_every": 1, "threads": 1}
    given = [f"data.{name}={value}" for name, value in data.items()]
    given += [f"train.{name}={value}" for name, value in train.items()]
    return ["--quiet", f"run={run}", *given, *more]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


DEFAULTS: dict[str, Callable[[], object]] = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "another device": lambda: torch.set_default_device("meta"),
}


@pytest.fixture(params=DEFAULTS.values(), ids=DEFAULTS)
def set_defaults(request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """Sets what a caller may have set; all is as before when the test ends."""
    yield request.param
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def all_that_a_model_does(folder: Path) -> list[np.ndarray]:
    """Of the models that `save_models` wrote."""
    t = np.arange(500) / RATE
    wave = (0.1 * np.sin(2 * np.pi * (200 * t + 700 * t**2))).astype(np.float32)
    found = []
    for name in ("teacher", "student"):
        model = SpeechModel.load(folder / name)
        coded = model.encode(wave, speaker="ann")
        found += [coded.codes, model.decode(coded, sampling=PLAIN)]
        pieces = model.encode_stream(12000)
        found += [torch.cat([pieces.push(wave), pieces.flush()], 1)]
        stream = model.stream("bob", sampling=PLAIN)
        found += [stream.push(coded.codes[:, :9]), stream.copy().flush()]
        tasks = [("a", model.task(coded, "bob"))]
        found += [wave for _, wave in model.decode_each(tasks, PLAIN)]
    found.append(
        np.array(SpeechModel.load(folder / "teacher").log_likelihood(wave, labels=ANN).bits)
    )
    prior = SpeechModel.load(folder / "prior")
    found += prior.generate(0.02, labels=ANN, sampling=PLAIN)
    found.append(np.array(prior.prior.bits(prior.prior.draw(0.1)[0])))
    return [np.asarray(array) for array in found]


def save_models(folder: Path) -> None:
    torch.manual_seed(0)
    encoder = WaveformEncoderSpec(strides=(4, 4), channels=4, blocks=1, latent_dim=4)
    quantizer = FSQuantizerSpec(levels=(5, 3))
    specs = {
        "teacher": VQVAESpec(encoder=encoder, quantizer=quantizer, decoder=TEACHER),
        "student": VQVAESpec(encoder=encoder, quantizer=quantizer, decoder=STUDENT),
    }
    specs["prior"] = PriorSpec(codec=specs["teacher"])
    for name, it in specs.items():
        card = ModelCard(sample_rate=RATE, labels=LABELS, spec=it, about={})
        save_trained(folder / name, card.build(), card)


def test_default_types_and_devices_change_nothing_of_a_model(
    set_defaults: Callable[[], object], tmp_path: Path
) -> None:
    save_models(tmp_path)
    plain = all_that_a_model_does(tmp_path)
    set_defaults()
    before = torch.get_default_dtype(), torch.get_default_device()
    for found, expected in zip(all_that_a_model_does(tmp_path), plain, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert (torch.get_default_dtype(), torch.get_default_device()) == before


def test_default_types_and_devices_change_nothing_of_a_training(
    set_defaults: Callable[[], object], corpus: Path, tmp_path: Path
) -> None:
    main(Tiny, settings(corpus, tmp_path / "plain"))
    set_defaults()
    main(Tiny, settings(corpus, tmp_path / "other"))
    assert weights(tmp_path / "other") == weights(tmp_path / "plain")


def test_a_training_in_a_thread_is_the_same(corpus: Path, tmp_path: Path) -> None:
    """As `wandb.agent(function=...)` runs it: signals are the main thread's business."""
    main(Tiny, settings(corpus, tmp_path / "plain"))
    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=main, args=(Tiny, settings(corpus, tmp_path / "thread")))
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert weights(tmp_path / "thread") == weights(tmp_path / "plain")
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """`decode.cpu.kernel_cache`, which has not looked for its folder yet."""
    found = pytest.importorskip("vqwave.decode.cpu.kernel_cache", exc_type=ImportError)
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    found._warn_unkept.cache_clear()
    yield found
    found._warn_unkept.cache_clear()


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@contextmanager
def refuse(*_: object, **__: object) -> Iterator[None]:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    yield


def test_kernels_without_a_place_to_keep_them_are_compiled_and_it_is_said_once(
    kernels: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqwave.decode.cpu import kernel_files
    from vqwave.decode.cpu.compiled import Compiled

    def filtered() -> float:
        x = np.ones(2, np.float32)
        synthesise = Compiled("vqwave.decode.cpu.flow.kernel", "synthesise")
        synthesise(np.full((1, 1), 0.5, np.float32), 1, 0, x)
        return x[1]

    def noted() -> list[str]:
        kernels._warn_unkept.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert [filtered(), filtered()] == [1.5, 1.5]
        assert all(item.category is Note for item in caught)
        texts = [str(item.message) for item in caught]
        return [text for text in texts if not text.startswith("compiling the decoder")]

    with monkeypatch.context() as nowhere:
        nowhere.setattr(Path, "home", no_home)
        (said,) = noted()
        assert "Could not determine home directory" in said
        assert "NUMBA_CACHE_DIR" in said
    with monkeypatch.context() as nowhere:
        (tmp_path / "file").write_text("")
        nowhere.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
        assert ["Not a directory" in said for said in noted()] == [True]
    with monkeypatch.context() as nowhere:
        nowhere.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
        nowhere.setattr(kernel_files, "new_file", refuse)
        assert ["Read-only file system" in said for said in noted()] == [True]
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert noted() == []
    assert len(list((tmp_path / "cache" / "vqwave" / "kernels").glob("*.o"))) == 1


NETWORK = (
    "layers=2",
    "dilation_cycle=2",
    "residual_channels=4",
    "gate_channels=4",
    "skip_channels=4",
    "hidden_channels=4",
)
NOBODY = """
import os, pwd, sys
def unknown(number):
    raise KeyError(number)
pwd.getpwuid = unknown  # as in a container whose user has no entry
for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
    os.environ.pop(name, None)
import runpy
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stopped:
    print("status", stopped.code)
sys.argv.append("train.tracker=none")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def train_elsewhere(
    corpus: Path, run: Path, *before: str, **given: str
) -> subprocess.CompletedProcess[str]:
    """experiments/wavenet.py with wandb, in a process whose environment names no wandb."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    network = [f"model.network.{value}" for value in NETWORK]
    command = settings(corpus, run, "train.tracker=wandb", "num_samples=0", *network)
    done = subprocess.run(
        [sys.executable, *before, str(ROOT / "experiments" / "wavenet.py"), *command],
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | given,
        cwd=run.parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "model" / "model.safetensors").is_file()
    return done


def test_a_training_without_a_login_is_kept_offline(corpus: Path, tmp_path: Path) -> None:
    none = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = train_elsewhere(corpus, tmp_path / "run", **none)
    (note,) = [line for line in done.stderr.splitlines() if line.startswith("note: wandb")]
    start = "note: wandb has no login, the run is kept offline; to upload it: wandb login, then "
    assert note.startswith(start + "wandb sync ")
    place = tmp_path / note.split("wandb sync ")[1]
    assert list(place.glob("*.wandb"))
    assert place.is_relative_to(tmp_path / "run" / "wandb")


def test_a_training_of_a_user_without_a_home(corpus: Path, tmp_path: Path) -> None:
    """wandb needs one, which is said before the run is claimed; nothing else does."""
    pytest.importorskip("pwd")
    done = train_elsewhere(corpus, tmp_path / "run", "-c", NOBODY)
    assert "status 2" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: train.tracker: wandb cannot start (Could not determine home")
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.fixture
def no_wandb_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG_DIR", "CACHE_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))


@pytest.mark.usefixtures("no_wandb_set")
def test_what_wandb_needs_is_asked_before_a_run_is_claimed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(boards, "_has_login", lambda _: False)
    assert boards.wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(SystemExit) as stopped:
        main(Tiny, settings(corpus, tmp_path / "run", "train.tracker=wandb"))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: train.tracker: WANDB_MODE is online, and wandb has no login")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SystemExit):
        main(Tiny, settings(corpus, tmp_path / "run", "train.tracker=tensorboard"))
    assert "tensorboard is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_wandb_set")
def test_where_a_login_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SimpleNamespace(mode="online", api_key=None, base_url="https://api.wandb.ai")
    fake = SimpleNamespace(setup=lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(boards.importlib, "import_module", lambda _: fake)
    monkeypatch.setattr(boards, "open_run", lambda: None)
    assert boards.wandb_mode() == "offline"
    (tmp_path / "netrc").write_text("machine example.org login me password secret\n")
    assert boards.wandb_mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert boards.wandb_mode() is None
    (tmp_path / "netrc").write_text("no netrc")
    assert boards.wandb_mode() == "offline"
    settings.api_key = "secret"
    assert boards.wandb_mode() is None
    settings.api_key, settings.mode = None, "offline"  # `wandb offline` was called
    assert boards.wandb_mode() is None
    settings.mode = "online"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert boards.wandb_mode() is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert boards.wandb_mode() == "disabled"


@pytest.mark.usefixtures("no_wandb_set")
def test_a_run_of_wandb_that_is_open_is_taken_and_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    run = wandb.init(mode="disabled", dir=tmp_path, config={"optim.lr": 1.0})
    try:
        (tmp_path / "run").mkdir()
        main_rank = SimpleNamespace(is_main_process=True)
        tracker = Tracker(main_rank, tmp_path / "run", "wandb", {"optim": {"lr": 0.5}})
        tracker.rewind(-1)
        assert tracker.board.run is run
        assert run.config["optim.lr"] == 0.5
        assert (tmp_path / "run" / "tracker_id").read_text() == run.id
        tracker.log(1, 0.0, {"x": 1.0})
        tracker.finish()
        assert wandb.run is run
    finally:
        run.finish()


@pytest.mark.usefixtures("no_wandb_set")
def test_what_wandb_cannot_do_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def fail(**_: object) -> None:
        raise wandb.errors.CommError("the server\nis away")

    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(
        UserInputError, match=r"^train.tracker: wandb cannot open a run \(the server is"
    ):
        boards.WandbBoard(tmp_path, "x", {})
