"""Compiled kernels: made once, whoever wants them, kept apart by all that they depend on, loaded
without numba, and removed when nobody uses them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from vqwave.cli import notes
from vqwave.errors import Note

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from vqwave.decode.cpu import compiled, kernel_cache
from vqwave.decode.cpu.compiled import Compiled, Native, words_of
from vqwave.decode.cpu.flow import synthesis_filter
from vqwave.decode.cpu.processor import INDIFFERENT, description

ROOT, MODULE = Path(__file__).parents[2], "vqwave.decode.cpu.flow.kernel"
PROCESS = """
import sys
sys.modules["numba"] = None  # whose import fails
import numpy as np
from vqwave.cli import notes
from vqwave.decode.cpu.flow import decoder, synthesis_filter
from vqwave.decode.cpu.wavenet import decoder as of_wavenets
x = np.ones(20, np.float32)
with notes(quiet=False):
    synthesis_filter.synthesise(np.full((2, 4), 0.1, np.float32), 5, 0, x)
print(x.tobytes().hex())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kernels, empty."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "vqwave" / "kernels"


def used(path: Path, ago: float) -> None:
    """Last used so many seconds ago."""
    now = time.time()
    os.utime(path, (now - ago, now - ago))


@pytest.mark.parametrize("quiet", [False, True])
def test_a_kept_kernel_is_loaded_without_numba_and_only_compiling_prints_a_line(
    quiet: bool, cache: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "onceregistry", {})  # other tests compile, too
    x = np.ones(20, np.float32)
    with notes(quiet=quiet):
        Compiled(MODULE, "synthesise")(np.full((2, 4), 0.1, np.float32), 5, 0, x)
    line = "note: compiling the decoder for this machine, once: some 20 seconds\n"
    assert capsys.readouterr().err == ("" if quiet else line)
    if quiet:
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROCESS]
    kept = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert kept.returncode == 0, kept.stderr
    assert (kept.stderr, kept.stdout) == ("", x.tobytes().hex() + "\n")


class Counted(Compiled):
    """As another process has it, and what it compiles is counted, not compiled."""

    made: ClassVar[list[str]] = []
    complete = True

    def _compile(self, arguments: Sequence[object]) -> tuple[bytes, bool]:
        time.sleep(0.3)
        self.made.append(self.name)
        return b"code", self.complete


@pytest.fixture
def counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    layout = compiled.struct.Struct("QQ")
    block = compiled.ctypes.c_char * layout.size
    native = Native(lambda _: 0, layout, block, None)
    monkeypatch.setattr(compiled, "_native", lambda *_: native)
    monkeypatch.setattr(Counted, "made", [])
    return Counted


def test_processes_that_want_a_kernel_at_once_compile_it_once(
    counted: type[Counted], cache: Path
) -> None:
    kernels = [counted(MODULE, "noise") for _ in range(3)]
    threads = [threading.Thread(target=kernel, args=(1,)) for kernel in kernels]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counted.made == ["noise"]
    assert {item.category for item in caught} == {Note}
    assert all("waiting" in str(item.message) for item in caught)
    assert len(list(cache.glob("*.o"))) == 1
    counted(MODULE, "noise")(7)  # of the same kind
    assert counted.made == ["noise"]
    counted(MODULE, "noise")(np.uint64(7))
    counted(MODULE, "scale")(7)
    assert counted.made == ["noise", "noise", "scale"]


def test_nothing_is_compiled_where_only_what_is_kept_is_wanted(
    counted: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(MODULE, "noise")(1)
    with compiled.kept_alone():
        counted(MODULE, "noise")(7)
        with pytest.raises(compiled.NotKeptError):
            counted(MODULE, "scale")(7)
        monkeypatch.setattr(kernel_cache, "place", lambda *_: None)  # no folder for kernels
        with pytest.raises(compiled.NotKeptError):
            counted(MODULE, "scale")(7)
    assert counted.made == ["noise"]
    counted(MODULE, "scale")(7)
    assert counted.made == ["noise", "scale"]


def test_code_that_needs_numba_is_not_kept(
    counted: type[Counted], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "complete", False)
    counted(MODULE, "noise")(1)
    assert list(cache.glob("*.o")) == []


def test_the_name_of_a_kernel_changes_with_all_that_it_depends_on(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "some_kernel.py"
    names = set()

    def name(kinds: str = "i") -> None:
        kernel_cache._origin.cache_clear()
        path = kernel_cache.place(source, "noise", kinds)
        assert path is not None
        names.add(path.name)

    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    source.write_text("x = 1\n")
    name()
    name("d")
    source.write_text("x = 2\n")
    name()
    monkeypatch.setattr(kernel_cache.metadata, "version", lambda name: f"another {name}")
    name()
    plain = description()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2")
    name()
    for setting in INDIFFERENT - {"NUMBA_CACHE_DIR"}:
        monkeypatch.setenv(setting, "1")
        name()
    assert len(names) == 5
    assert description() == f"{plain} NUMBA_CPU_FEATURES=+avx2"
    kernel_cache._origin.cache_clear()


def test_the_sources_of_a_kernel_are_all_that_it_imports() -> None:
    folder = Path(compiled.__file__).parent
    found = kernel_cache.sources(folder / "rate_kernels.py")
    expected = ("rate_kernels", "jit", "simd", "processor", "rates", "kernel_cache", "kernel_files")
    assert {folder / f"{name}.py" for name in expected} <= found
    found = kernel_cache.sources(folder / "flow" / "kernel.py")
    assert folder / "flow" / "microkernel.py" in found
    assert folder / "wavenet" / "state.py" not in found
    assert folder / "compiled.py" not in found


def test_what_nobody_uses_is_removed_and_what_is_in_use_never(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_cache, "MOST", 3000)
    cache.mkdir(parents=True)
    kernels = {name: cache / f"{name}.o" for name in ("now", "hour", "day", "week", "old")}
    for path in kernels.values():
        path.write_bytes(bytes(1000))
    older = cache.with_name("kernels-0123456789ab")
    (older / "inner").mkdir(parents=True)
    (older / "inner" / "x.nbc").write_bytes(bytes(1000))
    lock = cache / "old.lock"
    lock.touch()
    month = 31 * kernel_cache.DAY
    for path in (older / "inner" / "x.nbc", older / "inner", older, lock):
        used(path, month)
    used(kernels["hour"], 5000)
    used(kernels["day"], kernel_cache.DAY)
    used(kernels["week"], 7 * kernel_cache.DAY)
    used(kernels["old"], month)
    kernel_cache.prune(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["day.o", "hour.o", "now.o"]
    assert [path.name for path in cache.parent.iterdir()] == ["kernels"]
    # beyond the bound, the longest unused goes, but nothing of the last hour
    monkeypatch.setattr(kernel_cache, "MOST", 1500)
    used(kernels["hour"], 3000)
    kernel_cache.prune(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["hour.o", "now.o"]


def test_loading_a_kernel_keeps_it(cache: Path) -> None:
    cache.mkdir(parents=True)
    path = cache / "x.o"
    kernel_cache.store(path, b"code")
    used(path, 40 * kernel_cache.DAY)
    assert kernel_cache.load(path) == b"code"
    kernel_cache.prune(cache)
    assert path.exists()
    used(path, 40 * kernel_cache.DAY)
    kernel_cache.store(cache / "y.o", b"code")
    assert [file.name for file in cache.iterdir()] == ["y.o"]


def test_arguments_that_no_kernel_takes() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        words_of((np.zeros((4, 4))[:, 1:],))
    with pytest.raises(TypeError, match="str"):
        words_of((1, ("a",)))
    assert words_of((-1, (2.0, np.uint64(3))))[1] == [2**64 - 1, 2.0, 3]


def test_a_kernel_has_its_arguments_in_any_mixture() -> None:
    """Two shapes and lengths of one kind, by one native function."""
    filters = synthesis_filter.synthesise
    for order, length in ((1, 5), (3, 9)):
        rng = np.random.default_rng(order)
        a, x = rng.normal(size=(2, order)).astype(np.float32), np.ones(order + length, np.float32)
        expected = x.astype(float)
        for t in range(order, order + length):
            column = min((t - order + 1) // 4, 1)
            expected[t] += sum(float(a[column, k]) * expected[t - 1 - k] for k in range(order))
        filters(a, 4, 1, x)
        np.testing.assert_allclose(x, expected, rtol=1e-4)
    assert len(filters._natives) == 1
