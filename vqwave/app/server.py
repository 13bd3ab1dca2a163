"""Serves the page, from loopback unless another address is given; it requests nothing elsewhere."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from vqwave.app.models import Models
    from vqwave.app.page import Limits

LOOPBACK = "127.0.0.1"
FIRST_PORT, PORTS = 7860, 100  # where a free port is looked for
LARGEST = "100mb"  # of a file that is sent


def require_gradio() -> None:
    """Raises UserInputError that names the extra to install."""
    try:
        import gradio  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserInputError(
            f"{error.name} is not installed, expected for the page: pip install 'vqwave[app]'"
        ) from None


def check_host(host: str) -> None:
    """Raises UserInputError for a name without an address, where the server's thread would end, and
    be waited for; and for an address of another machine, where each port would be tried.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.bind(address)
    except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
        raise UserInputError(
            f"--host {host}: {getattr(error, 'strerror', None) or error}, expected an address or a"
            " name of this machine"
        ) from None


def serve(
    models: Models,
    limits: Limits,
    sampling: Sampling = DEFAULT,
    *,
    host: str = LOOPBACK,
    port: int | None = None,
    ready: Callable[[str], object] = print,
    until: threading.Event | None = None,
) -> None:
    """Until `until` is set, or interrupted. `ready` takes the address.

    sampling: the decoders' back-end and precision; port: None for the first that is free. What
    visitors send lies in a temporary folder that is removed at the end. Raises UserInputError for
    an address that cannot be had.
    """
    check_host(host)
    with tempfile.TemporaryDirectory(prefix="vqwave-app-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        import gradio as gr

        from vqwave.app.page import HERE, build
        from vqwave.app.samples import FOLDER

        fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
        page = build(models, limits, sampling)
        script = (HERE / "page.js").read_text(encoding="utf-8")
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                max_file_size=LARGEST,
                allowed_paths=[str(FOLDER)],
                ssr_mode=False,
                _frontend=False,  # else a machine that is busy, or has a proxy, is refused
                theme=gr.themes.Default(primary_hue="teal", font=fonts[0], font_mono=fonts[1]),
                css_paths=HERE / "page.css",
                head=f"<script>{script}</script>",
            )
        except OSError as error:
            wanted = f"{host}:{port or f'{FIRST_PORT} to {FIRST_PORT + PORTS - 1}'}"
            raise UserInputError(
                f"{wanted}: cannot be served ({error}), expected a free port of this machine"
            ) from None
        try:
            ready(address)
            (until or threading.Event()).wait()
        finally:
            page.close(verbose=False)
