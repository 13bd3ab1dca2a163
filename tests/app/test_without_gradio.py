"""Where gradio is not installed, `vqwave app` names the extra."""

from __future__ import annotations

import sys

import pytest

from vqwave.cli import main


def test_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as ended:
        main(["app"])
    assert ended.value.code == 2
    assert "pip install 'vqwave[app]'" in capsys.readouterr().err
