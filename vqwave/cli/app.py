"""The page to try models on: app."""

from __future__ import annotations

import argparse

from vqwave.cli.arguments import Add, backend_options, check_positive, finite
from vqwave.errors import UserInputError
from vqwave.terminal import output

HIGHEST_PORT = 65_535


def add(add: Add) -> None:
    app = add(
        "app",
        serve_page,
        "A page to try models on: record, convert, edit codes (extra app).",
    )
    shipped = "VQ-VAEs, students and priors: run folders, model folders or names"
    app.add_argument("models", nargs="*", metavar="MODEL", help=f"{shipped} (default: shipped)")
    local = "address to serve from; 0.0.0.0 lets other machines in (default %(default)s)"
    app.add_argument("--host", default="127.0.0.1", help=local)
    app.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    app.add_argument(
        "--max-seconds",
        type=finite,
        default=30.0,
        help="longest recording that is taken (default %(default)g)",
    )
    app.add_argument(
        "--max-waiting",
        type=int,
        default=20,
        help="visitors that wait while others' work is done (default %(default)s)",
    )
    backend_options(app)


def serve_page(arguments: argparse.Namespace) -> None:
    check_positive(arguments, "--port", "--max-seconds", "--max-waiting")
    if arguments.port is not None and arguments.port > HIGHEST_PORT:
        raise UserInputError(f"--port {arguments.port}: expected at most {HIGHEST_PORT}")

    from vqwave.app.server import require_gradio, serve

    require_gradio()

    from vqwave.app.models import SHIPPED, Models
    from vqwave.app.page import Limits
    from vqwave.decode.sampling import Sampling

    sampling = Sampling(backend=arguments.backend, precision=arguments.precision)
    models = Models.load(arguments.models or SHIPPED, arguments.device)
    limits = Limits(arguments.max_seconds, arguments.max_waiting)

    def ready(address: str) -> None:
        output(f"{address} (Ctrl-C ends it)", flush=True)

    serve(models, limits, sampling, host=arguments.host, port=arguments.port, ready=ready)
