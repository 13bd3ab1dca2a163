"""A process of its own for a piece of work, as one rank of a training."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def fork(
    work: Callable[[], object],
    log: Path,
    *,
    rank: int = 0,
    world: int = 1,
    port: int = 0,
    own_group: bool = False,
) -> int:
    """The id of a process that does `work`, and whose exit status is that of the work: 98 for a
    message of `SystemExit`, 99 for any other exception. It prints into `log`.

    rank, world, port: of a training of several processes; own_group: it leads a process group.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        if own_group:
            os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        # what this process' parent may have been
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if world > 1:
            os.environ |= of_rank(rank, world, port)
        work()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def of_rank(rank: int, world: int, port: int) -> dict[str, str]:
    """What a launcher sets for a process of a training on this machine."""
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "MASTER_PORT": port,
    }
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()}
