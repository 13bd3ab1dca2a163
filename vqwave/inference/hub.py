"""Models of a hub, by way of huggingface_hub and its cache: `hf://USER/REPO[@REVISION]`.

Of a repository only the files of a model folder are fetched, each within a size, all of one commit;
nothing is unpickled. What the cache has is used without a connection. The hub, the cache and the
token are those of huggingface_hub (`HF_ENDPOINT`, `HF_HOME`, `hf auth login`).
"""

from __future__ import annotations

import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from vqwave import parsing
from vqwave.errors import Note, UserInputError

PREFIX = re.compile(r"hf:/+")  # a `Path` has one slash of two
NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,254}", re.ASCII)
LARGEST_WEIGHTS = 1 << 34  # bytes
# files of a model folder: most bytes
NEEDED = {"config.json": parsing.LONGEST_JSON, "model.safetensors": LARGEST_WEIGHTS}
PAGE, LONGEST_PAGE = "README.md", 1 << 20
PATIENCE = 5.0  # seconds that a connection may take
OFFLINE = "not in the cache, and the hub cannot be reached"


def is_address(name: str | Path) -> bool:
    """Whether a model's name is one of a hub."""
    return PREFIX.match(str(name)) is not None


@dataclass(frozen=True)
class HubAddress:
    """A repository, and of it a branch, a tag or a commit (None: `main`)."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> HubAddress:
        """`USER/REPO` or `USER/REPO@REVISION`, with or without `hf://`. Raises UserInputError."""
        repo, at, given = PREFIX.sub("", text).partition("@")
        if at and revision is not None:
            raise UserInputError(f"{text}: revision {revision!r}, too, expected one of them")
        revision = given if at else revision
        if not NAME.fullmatch(repo) or ".." in repo or "--" in repo:
            raise UserInputError(
                f"{text}: neither a model folder nor a name of a hub, expected"
                " hf://USER/REPO[@REVISION]"
            )
        if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
            raise UserInputError(f"{text}: revision {revision!r}, expected a branch, tag or commit")
        return cls(repo, revision)

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def fetch(address: HubAddress, token: str | None = None) -> Path:
    """The model folder of a repository, in the cache. Raises UserInputError."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    commit, folder, reached = address.revision, Path(), _is_reached()
    with _in_a_line(address):
        for name, most in NEEDED.items():
            folder = _file(address, name, commit, most, token, reached=reached).parent
            commit = folder.name  # of which the other files are taken, too
        for name, most in _optional_files().items():
            if _is_known_to_miss(address, name, commit):
                continue
            try:
                _file(address, name, commit, most, token, reached=reached)
            except LocalEntryNotFoundError:
                text = f"{address}: {name} cannot be fetched now; loaded without it, if it is there"
                warnings.warn(text, Note, stacklevel=3)
            except EntryNotFoundError:
                pass
    return folder


def _optional_files() -> dict[str, int]:
    """What a model can do without: most bytes by name."""
    from vqwave.data.speaker_vectors import (
        FILE,
        MOST_BYTES,
    )  # with torch, which no local model needs

    return {PAGE: LONGEST_PAGE, FILE: MOST_BYTES}


def push(
    folder: Path, address: HubAddress, message: str, *, private: bool | None, token: str | None
) -> str:
    """Upload a folder as one commit of a repository, which is made if need be -> the commit's URL.

    Raises UserInputError.
    """
    from huggingface_hub import HfApi

    with _in_a_line(address):
        api = HfApi(token=token, library_name="vqwave")
        api.create_repo(address.repo, private=private, exist_ok=True)
        if address.revision is not None:
            api.create_branch(address.repo, branch=address.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.repo,
            folder_path=folder,
            revision=address.revision,
            commit_message=message,
        )
    return str(commit.commit_url)


def _file(
    address: HubAddress,
    name: str,
    revision: str | None,
    most: int,
    token: str | None,
    *,
    reached: bool,
) -> Path:
    """A file of a repository in the cache; one that is too large is not fetched, and none where the
    hub is not `reached`.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(address.repo, name, revision=revision)
    if reached and not isinstance(cached, str):
        size = _announced_size(address, name, revision, token)
        if size is not None and size > most:
            raise UserInputError(f"{address}: {name}: {size:,} bytes, expected at most {most:,}")
    path = hf_hub_download(
        address.repo,
        name,
        revision=revision,
        token=token,
        library_name="vqwave",
        local_files_only=not reached,
    )
    return Path(path)


def _is_reached() -> bool:
    """Whether the hub takes a connection: huggingface_hub would ask six times, in half a minute.

    True where a proxy carries the requests, which alone knows.
    """
    from huggingface_hub import constants

    place = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies().get(place.scheme):
        return True
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname or "", port), timeout=PATIENCE):
            return True
    except OSError:
        return False


def _is_known_to_miss(address: HubAddress, name: str, revision: str | None) -> bool:
    """Whether the hub has said before that there is no such file."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(address.repo, name, revision=revision)
    return cached is not None and not isinstance(cached, str)


def _announced_size(
    address: HubAddress, name: str, revision: str | None, token: str | None
) -> int | None:
    """Bytes; None where the hub does not say: what is wrong, the download reports."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(address.repo, name, revision=revision)
    try:
        return get_hf_file_metadata(url, token=token).size
    except Exception:  # of whichever library carries the requests
        return None


@contextmanager
def _in_a_line(address: HubAddress) -> Iterator[None]:
    """What huggingface_hub raises as a `UserInputError`."""
    from huggingface_hub import errors

    try:
        yield
    except UserInputError:
        raise
    except errors.GatedRepoError:
        reason = "gated, expected a token that has access (hf auth login)"
    except errors.RepositoryNotFoundError:
        reason = "no such repository, or a private one; expected its name, or a token that has"
        reason += " access (hf auth login)"
    except errors.RevisionNotFoundError:
        reason = "no such revision, expected a branch, a tag or a commit"
    except errors.LocalEntryNotFoundError:
        reason = OFFLINE
    except errors.EntryNotFoundError:
        reason = f"no model in it, expected {' and '.join(NEEDED)}"
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "without an answer")
        reason = f"refused by the hub ({status}), expected a token that has access (hf auth login)"
        if status not in (401, 403):
            reason = f"the hub fails ({status}), expected it to answer"
    except Exception as error:  # of whichever library carries the requests
        reason = f"the hub cannot be used ({(str(error).splitlines() or [''])[0][:200]})"
    else:
        return
    raise UserInputError(f"{address}: {reason}") from None
