"""How files of text are read: JSON, JSON lines and YAML, within limits, then by one strict schema.

Everything that is read from a file passes here. A text has a size, a depth, digits of its numbers
and, in YAML, a number of values (an alias counts as what it repeats); a key is given once; there is
no NUL, and no NaN or infinity but where a caller allows them. What has passed `checked` has the
types and ranges of its schema, and is not checked again.

Every `UserInputError` names the file. Only regular files are opened: a FIFO would wait for ever,
and a device has no end. What the shell opened for a command (`/dev/fd/63`) is read, too.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
import re
import stat
import typing
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from yaml.constructor import ConstructorError

from vqwave.errors import UserInputError

T = TypeVar("T")

PIECE = 1 << 20  # bytes that are read at once
LONGEST_JSON = 1 << 26  # bytes of a file that is one value
LONGEST_LINE = 1 << 24  # bytes of a line that is one value
MOST_PACKED, FREE_BYTES = 200, 1 << 20  # bytes that a byte of a gzip file may stand for
LONGEST_YAML = 1 << 19  # bytes
DEEPEST = 64  # lists and mappings inside one another
MOST_NODES = 20_000  # values and keys of a YAML file, those that aliases repeat included
MOST_DIGITS, MOST_FLOAT = 40, 400  # characters of a whole number, of any other
OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
TAGS = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge", "value")
TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
PAIRS = re.compile(r"\[\]|\{\}")
SURROGATE = re.compile("[\ud800-\udfff]")  # no character
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

# types of schemas
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
"""A whole number from 0 on that a float holds, too."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[int, Field(ge=1, le=1_000_000)]
"""Hz."""


class _Refused(ValueError):  # noqa: N818
    """A value that is well formed and outside the limits."""


def open_regular(path: str | Path) -> BinaryIO:
    """A file, to be read. Raises OSError, and UserInputError for what is no regular file."""
    if "\0" in str(path):
        raise UserInputError(f"{str(path)!r}: a name with NUL, expected the name of a file")
    # O_NONBLOCK: to open a FIFO would wait for somebody who writes
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and str(path).startswith(OPEN_ALREADY)):
        os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    os.close(handle)
    kind = "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device"
    raise UserInputError(f"{path}: {kind}, expected a file")


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have, of data, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_bytes(path: str | Path, expected: str, most: int = LONGEST_JSON) -> bytes:
    """The content of a file. Raises UserInputError where it cannot be read, or has more bytes."""
    try:
        with open_regular(path) as file:
            data = bytearray()  # in pieces: `most` is not allocated for a few bytes
            while len(data) <= most and (more := file.read(min(PIECE, most + 1 - len(data)))):
                data += more
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "no such file" if missing else f"cannot be read ({error.strerror})"
        raise UserInputError(f"{path}: {why}, expected {expected}") from None
    if len(data) > most:
        raise UserInputError(f"{path}: more than {most:,} bytes, expected {expected}")
    return bytes(data)


def read_text(path: str | Path, expected: str, most: int = LONGEST_JSON) -> str:
    """The same as text in UTF-8."""
    return decoded(read_bytes(path, expected, most), str(path))


def decoded(data: bytes, name: str) -> str:
    """UTF-8 as text, a mark at its beginning left out. Raises UserInputError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserInputError(f"{name}: not UTF-8 text") from None


def read_json(path: str | Path, expected: str, kind: type[T], *, finite: bool = True) -> T:
    """The one value of a JSON file, by its schema. Raises UserInputError."""
    text = read_text(path, expected)
    tree = parse_json(text, str(path), finite=finite)
    return checked(kind, tree, str(path), expected)


def read_json_lines(
    path: str | Path, expected: str, kind: type[T], *, finite: bool = True, torn: str = ""
) -> Iterator[tuple[int, T]]:
    """(line number, value) of each line that is not empty.

    `torn`: "last" or "any" line is left out where it is no JSON, as a run that is killed leaves
    it. Raises UserInputError that names the line.
    """
    for number, text, last in _lines(path, expected):
        name = f"{path}, line {number}"
        try:
            tree = parse_json(decoded(text, name), name, finite=finite)
        except UserInputError:
            if torn == "any" or (torn == "last" and last):
                continue
            raise
        yield number, checked(kind, tree, name)


def _lines(path: str | Path, expected: str) -> Iterator[tuple[int, bytes, bool]]:
    """Number, content, and whether nothing follows; of a gzip file where its name ends in .gz."""
    try:
        with open_regular(path) as packed, ExitStack() as opened:
            file: Any = packed
            left = math.inf
            if str(path).endswith(".gz"):
                left = FREE_BYTES + MOST_PACKED * os.fstat(packed.fileno()).st_size
                file = opened.enter_context(gzip.GzipFile(fileobj=packed))
            number, line = 0, file.readline(LONGEST_LINE + 1)
            while line:
                following, number = file.readline(LONGEST_LINE + 1), number + 1
                if len(line) > LONGEST_LINE:
                    raise UserInputError(f"{path}, line {number}: more than {LONGEST_LINE:,} bytes")
                left -= len(line)
                if left < 0:
                    raise UserInputError(
                        f"{path}: more than {MOST_PACKED} times as long as it is packed"
                    )
                if line.strip():
                    yield number, line, not following
                line = following
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserInputError(f"{path}: not a complete gzip file ({error})") from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "no such file" if missing else f"cannot be read ({error.strerror})"
        raise UserInputError(f"{path}: {why}, expected {expected}") from None


def parse_json(text: str, name: str, *, finite: bool = True) -> Any:  # noqa: ANN401 - a tree
    """The value of a JSON text within the limits; `finite`: without NaN and infinity.

    Raises UserInputError that begins with `name`.
    """
    try:
        tree = (_STRICT if finite else _LENIENT).decode(text)
        _check_depth(text)
        if NUL.search(text):
            raise _Refused("holds a NUL")
        if "\\ud" in text or "\\uD" in text:  # half of a pair is no character
            json.dumps(tree, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserInputError(f"{name}: not JSON ({error})") from None
    except UnicodeEncodeError:
        raise UserInputError(f"{name}: not JSON (half a surrogate pair)") from None
    except RecursionError:
        raise UserInputError(f"{name}: not JSON ({_too_deep()})") from None
    except _Refused as error:
        raise UserInputError(f"{name}: not JSON that is taken ({error})") from None
    return tree


def _too_deep() -> str:
    return f"more than {DEEPEST} lists and mappings inside one another"


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    left = re.sub(r"[^\[\]{}]+", "", TEXTS.sub("", text))
    for _ in range(DEEPEST):
        left = PAIRS.sub("", left)
        if not left:
            return
    raise _Refused(_too_deep())


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise _Refused(f"a whole number of {len(text)} digits, expected at most {MOST_DIGITS}")
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > MOST_FLOAT:
        raise _Refused(f"a number of {len(text)} characters, expected at most {MOST_FLOAT}")
    return float(text)


def _finite(text: str) -> float:
    value = _fraction(text)
    if not math.isfinite(value):
        raise _Refused(f"{text[:40]}, expected a finite number")
    return value


def _no_constant(text: str) -> NoReturn:
    raise _Refused(f"{text}, expected a finite number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"key {twice[:60]!r} is given twice")
    return tree


_STRICT = json.JSONDecoder(
    parse_int=_whole, parse_float=_finite, parse_constant=_no_constant, object_pairs_hook=_once
)
_LENIENT = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, object_pairs_hook=_once)


@functools.lru_cache(maxsize=64)
def _schema(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(typing.cast("Any", kind))


def checked(kind: type[T], tree: object, name: str, expected: str = "") -> T:
    """A tree as an instance of `kind`, strictly: text is no number, and true is no 1.

    Raises UserInputError that begins with `name`, with the first key that does not fit, and ends
    with what was `expected`.
    """
    schema = _schema(typing.cast("Hashable", kind))
    try:
        return schema.validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserInputError(f"{name}: {type(tree).__name__} that JSON has not ({error})") from None
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    given = "" if first["type"] == "missing" else f", found {short(first['input'])}"
    problem = str(first["msg"]).removeprefix("Input ")
    wanted = f"; expected {expected}" if expected else ""
    raise UserInputError(f"{name}: {f'{key[:200]}: ' if key else ''}{problem}{given}{wanted}")


def short(value: object) -> str:
    """A value as a line shows it, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class YamlLoader(yaml.SafeLoader):
    """YAML within the limits, a key given once, and tags that have a value of their type."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # of complete nodes, by id
        self._kept: list[yaml.Node] = []  # so that no id is used again

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
            if id(node) not in self._sizes:
                raise _marked(f"alias {event.anchor!r} inside of what it repeats", event)
            self._nodes += self._sizes[id(node)]
        else:
            before, self._nodes, self._depth = self._nodes, self._nodes + 1, self._depth + 1
            if self._depth > DEEPEST:
                raise _marked(_too_deep(), event)
            node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
            self._depth -= 1
            self._sizes[id(node)] = self._nodes - before
            self._kept.append(node)
        if self._nodes > MOST_NODES:
            raise _marked(f"more than {MOST_NODES:,} values, aliases included", event)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - yaml's
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if kind not in TAGS:
            raise ConstructorError(None, None, f"tag {node.tag!r} is not read", node.start_mark)
        if kind == "str" and SURROGATE.search(str(node.value)):
            raise ConstructorError(None, None, "half a surrogate pair", node.start_mark)
        scalar = isinstance(node, yaml.ScalarNode)
        if scalar and kind in ("int", "float") and len(str(node.value)) > MOST_DIGITS:
            raise ConstructorError(None, None, "a number of too many digits", node.start_mark)
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            what = f"{str(node.value)[:40]!r} is no {kind} ({error})"
            raise ConstructorError(None, None, what, node.start_mark) from None

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - yaml's
    ) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _marked(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def parse_yaml(text: str, loader: Callable[[str], YamlLoader] = YamlLoader) -> Any:  # noqa: ANN401 - a tree
    """The value of a YAML text within the limits. Raises YAMLError."""
    if len(text) > LONGEST_YAML:
        raise yaml.YAMLError(f"more than {LONGEST_YAML:,} characters")
    reader = loader(text)
    try:
        return reader.get_single_data()  # type: ignore[no-untyped-call]
    except RecursionError:
        raise yaml.MarkedYAMLError(problem=_too_deep()) from None
    finally:
        reader.dispose()  # type: ignore[no-untyped-call]


def read_yaml(
    path: Path, expected: str, loader: Callable[[str], YamlLoader] = YamlLoader
) -> dict[str, Any]:
    """The mapping in a YAML file, whose names are text; empty for an empty file.

    Raises UserInputError that names the file, and the line where there is one.
    """
    return yaml_mapping(read_text(path, expected, LONGEST_YAML), str(path), expected, loader)


def yaml_mapping(
    text: str, name: str, expected: str, loader: Callable[[str], YamlLoader] = YamlLoader
) -> dict[str, Any]:
    """The same of a text."""
    try:
        tree = parse_yaml(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        if isinstance(error, yaml.reader.ReaderError):
            problem = "a character that YAML does not allow"
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise UserInputError(f"{where}: not valid YAML: {problem}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        given = "a list" if isinstance(tree, list) else repr(str(tree)[:40])
        raise UserInputError(f"{name}: expected {expected}, found {given}")
    return _named(tree, name)


def _named(tree: Any, name: str) -> Any:  # noqa: ANN401 - a tree
    """The same; a plain number or word as a key is taken as text."""
    if isinstance(tree, list):
        return [_named(item, name) for item in tree]
    if not isinstance(tree, dict):
        return tree
    for key in tree:
        if not isinstance(key, str | int | float | bool | None):
            raise UserInputError(f"{name}: key {short(key)}, expected a name")
    return {str(key): _named(value, name) for key, value in tree.items()}
