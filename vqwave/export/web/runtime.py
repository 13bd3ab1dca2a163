"""onnxruntime-web, which computes graphs in a browser: its WebAssembly build for one thread.

Its package is not part of vqwave. npm fetches it when a page is exported, in one release whose
bytes are known; or it is taken from a folder.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from vqwave.errors import UserInputError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
TIMEOUT = 900.0  # seconds, of 33 MB


def check_runtime(folder: Path | None) -> None:
    """Raises UserInputError where there is neither the package in `folder` nor npm to fetch it."""
    if folder is not None:
        _package_folder(folder)
    elif shutil.which("npm") is None:
        raise UserInputError(
            f"npm is not installed, which fetches {PACKAGE} {VERSION}; expected it, or --runtime"
            " FOLDER with that package"
        )


def copy_runtime(into: Path, folder: Path | None = None) -> None:
    """Put `SCRIPT` and `BINARY` into a folder: from `folder`, the package or its `dist`, or by npm.

    Raises UserInputError.
    """
    if folder is not None:
        place = _package_folder(folder)
        for name in (SCRIPT, BINARY):
            shutil.copyfile(place / name, into / name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = _fetched(Path(temporary))
        _check_bytes(archive)
        with tarfile.open(archive) as files:
            for name in (SCRIPT, BINARY):
                member = files.extractfile(f"package/dist/{name}")
                assert member is not None  # of an archive whose bytes are known
                (into / name).write_bytes(member.read())


def _package_folder(folder: Path) -> Path:
    """The folder of `SCRIPT` and `BINARY` in a package. Raises UserInputError."""
    for place in (folder, folder / "dist", folder / "node_modules" / PACKAGE / "dist"):
        if all((place / name).is_file() for name in (SCRIPT, BINARY)):
            return place
    raise UserInputError(
        f"{folder}: no {SCRIPT} and {BINARY} in it, expected the package {PACKAGE} or its dist"
    )


def _fetched(folder: Path) -> Path:
    """The package's archive, by npm."""
    npm = shutil.which("npm") or "npm"
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--loglevel=error", "--prefer-offline"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        problem = _reason(done.stderr) if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"nothing came in {TIMEOUT:.0f} s"
    except OSError as error:
        problem = str(error.strerror)
    archives = list(folder.glob("*.tgz"))
    if problem or len(archives) != 1:
        raise UserInputError(
            f"npm cannot fetch {PACKAGE} {VERSION} ({problem or 'no archive came'}); expected a"
            " network, or --runtime FOLDER with that package"
        )
    return archives[0]


def _reason(errors: str) -> str:
    """The line of npm's messages that has the error's code.

    >>> _reason("npm error code ENOTFOUND\\nnpm error syscall getaddrinfo")
    'code ENOTFOUND'
    """
    lines = [line.removeprefix("npm error ").strip() for line in errors.splitlines()]
    return next((line for line in lines if line.startswith("code ")), (lines or ["no reason"])[0])


def _check_bytes(archive: Path) -> None:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != SHA512:
        raise UserInputError(
            f"{PACKAGE} {VERSION}: npm fetched an archive of other bytes than that release,"
            f" SHA-512 {digest}"
        )
