"""Text in and out: reading what other programs wrote, and tables for a terminal or in Markdown.

Other programs write byte order marks, UTF-16, and line ends of all kinds; their texts hold characters that
`str.splitlines` takes for ends of lines (U+0085, U+2028). Here every text file is read, and each once only.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from audiodiff.errors import AudiodiffError, DataError, is_unicode

Align = Literal["left", "right"]
"""How the columns after the first, which is always to the left, are aligned."""

_DEEPEST = 100
"""Lists and mappings within each other that a document may have."""
_LARGEST = 10_000_000
"""Values that a document may have, counting those of an alias as often as it is used."""
_LONG_NUMBER = re.compile(r"(?<![\w.\"'-])-?\d{400,}(?![\w.])")

Error = type[AudiodiffError]


# --- reading ----------------------------------------------------------------------------------------------------------


def what_came_instead(path: Path) -> str:
    """Say what a download has left in place of a file of data, and what to do; empty if it is none of these."""
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        return (
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` where it was cloned, or download it."
        )
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return f"{path} is a web page, not the file itself. Download it again by the link of the file, not of its page."
    return ""


def read_text(path: str | Path, error: Error = DataError, language: str = "text") -> str:
    """Return a text without byte order mark, its lines ended by a line feed alone.

    Args:
        path: The file, in UTF-8, or in UTF-16 with a byte order mark.
        error: What is raised if it cannot be read.
        language: What it is, for that message.

    Raises:
        AudiodiffError: The error of the caller, if there is no such file, or it is no text; the message names the line.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as reason:  # the latter of a name with a NUL in it
        name = str(path) if str(path).isprintable() else repr(str(path))
        raise error(f"{name} cannot be read: {getattr(reason, 'strerror', reason)}. Check the path.") from reason
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        raise error(
            f"{path} cannot be read as {language}: line {line} has the bytes "
            f"{content[reason.start : reason.start + 4]!r}, which are not {'UTF-16' if utf16 else 'UTF-8'}. "
            "Save it as UTF-8."
        ) from reason
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, error: Error = DataError) -> list[tuple[int, str]]:
    """Return the lines of a text that hold something, with their numbers, and without blanks around them.

    Raises:
        AudiodiffError: As `read_text` does.
    """
    lines = ((number, line.strip(" \t")) for number, line in enumerate(read_text(path, error).split("\n"), 1))
    return [(number, line) for number, line in lines if line]


def read_csv(
    path: str | Path, columns: Sequence[str] = (), error: Error = DataError
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a table with a header, separated by commas, semicolons or tabs.

    Args:
        path: The file.
        columns: What must be among its columns.
        error: What is raised if it cannot be read.

    Yields:
        Where a row is, for messages (`table.csv:7`), and its cells by column.

    Raises:
        AudiodiffError: The error of the caller, if the file is missing or no table, lacks a column, or a row has more
            or fewer cells than the header.
    """
    text = read_text(path, error)
    separator = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        header = next(rows, [])
        if missing := set(columns) - set(header):
            there = ", ".join(map(repr, header)) or "none"
            raise error(f"{path} has no column {sorted(missing)[0]!r}; it has {there}.")
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if row and len(row) != len(header):
                raise error(f"{where} has {len(row)} cells; the header has {len(header)}. Correct the line.")
            if row:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as reason:
        raise error(f"{path}:{rows.line_num} is no row of a table: {reason}. Correct the line.") from reason


def read_json(path: str | Path, error: Error = DataError, *, last_line: bool = False) -> Any:
    """Return what a JSON file holds, or the last line of one that has a document in each.

    Raises:
        AudiodiffError: The error of the caller, if the file is missing or no JSON, or too deep or too large.
    """
    text = read_text(path, error, "JSON")
    return _parse(parse_json, "JSON", text.rstrip().rpartition("\n")[2] if last_line else text, str(path), error)


def parse_json(text: str) -> Any:
    """Return what a JSON text holds; a ValueError says which key is there twice."""
    return json.loads(text, object_pairs_hook=_mapping)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)[:60]!r} is there twice")
    return mapping


def read_yaml(path: str | Path, error: Error = DataError) -> Any:
    """Return what a YAML file holds; see `parse_yaml`."""
    return parse_yaml(read_text(path, error, "YAML"), str(path), error)


def parse_yaml(text: str, source: str, error: Error = DataError) -> Any:
    """Return what a YAML text holds, read by the rules of YAML 1.2: yes, no, on, off and 01 are words.

    Args:
        text: The text.
        source: Where it is from, for messages.
        error: What is raised if it cannot be read.

    Raises:
        AudiodiffError: The error of the caller, if the text is no YAML, names a key twice, or is too deep or too large.

    Example:
        >>> parse_yaml("labels: [yes, 01]", "example")
        {'labels': ['yes', '01']}
    """

    def parse(document: str) -> Any:
        loader = _Loader(document)
        loader.name = source  # for messages
        return loader.get_single_data()

    return _parse(parse, "YAML", text, source, error)


def _parse(parse: Callable[[str], Any], language: str, text: str, source: str, error: Error) -> Any:
    if number := _LONG_NUMBER.search(text):
        line = text.count("\n", 0, number.start()) + 1
        raise error(f"{source}:{line} has a number of {len(number[0]):,} digits. Correct the line.")
    try:
        document = parse(text)
    except (AttributeError, LookupError, TypeError) as reason:  # PyYAML of `!!timestamp x`, `!!bool x`, `!!int ""`
        raise error(f"{source} cannot be read as {language}: a value does not fit its tag (!!...).") from reason
    except (ValueError, yaml.YAMLError) as reason:
        raise error(f"{source} cannot be read as {language}: {reason}") from reason
    except RecursionError:
        document = None
        _refuse_depth(source, error)
    _check_size(document, source, error)
    return document


def _check_size(document: Any, source: str, error: Error) -> None:
    level, n_values = [document], 0
    for _ in range(_DEEPEST):
        outer = [value for value in level if isinstance(value, dict | list)]
        n_values += sum(map(len, outer))
        if n_values > _LARGEST:
            raise error(f"{source} holds more than {_LARGEST:,} values. Shorten it.")
        level = [inner for value in outer for inner in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    _refuse_depth(source, error)


def _refuse_depth(source: str, error: Error) -> NoReturn:
    raise error(f"{source} is nested more than {_DEEPEST} deep, or contains itself. Write it without.")


class _Loader(yaml.SafeLoader):
    """Reads plain values by the rules of YAML 1.2, and refuses keys that are there twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as PyYAML declares it)

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Compose a value, unless it is too deep: the scanner takes a time with the square of the depth."""
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > _DEEPEST:
            raise RecursionError
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, and refuse a key that was there before."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            seen.add(str(key.value))
        return node


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))",
        "-+.0123456789",
    ),
    ("float", r"\.(?:nan|NaN|NAN)", "."),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


# --- tables -----------------------------------------------------------------------------------------------------------


def text_table(rows: Sequence[Sequence[str]], *, align: Align = "right", indent: int = 0) -> str:
    """Align cells in columns, two spaces apart.

    Args:
        rows: All of the same length; a heading is a row like the others.
        align: Of the columns after the first.
        indent: Spaces before each line.

    Example:
        >>> print(text_table([["", "PESQ"], ["ours", "3.9"], ["Griffin-Lim", "3.65"]]))
                     PESQ
        ours          3.9
        Griffin-Lim  3.65
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if align == "left" or i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]], *, align: Align = "left") -> str:
    """Format rows as a Markdown table.

    Args:
        rows: The heading, then the body; all of the same length.
        align: Of the columns after the first.

    Example:
        >>> print(markdown_table([["", "PESQ"], ["ours", "3.9"]]))
        | | PESQ |
        |---|---|
        | ours | 3.9 |
    """
    heading, *body = (
        "|" + "|".join(f" {cell} ".replace("|", "\\|") if cell else " " for cell in row) + "|" for row in rows
    )
    rule = "|---|" + ("---|" if align == "left" else "---:|") * (len(rows[0]) - 1)
    return "\n".join([heading, rule, *body])


def latex_table(rows: Sequence[Sequence[str]]) -> str:
    r"""Format rows as a LaTeX table in the style of booktabs; arguments as of `markdown_table`.

    Example:
        >>> print(latex_table([["", "PESQ"], ["no_1 & 2", "3.9"]]))
        \begin{tabular}{lr}
        \toprule
         & PESQ \\
        \midrule
        no\_1 \& 2 & 3.9 \\
        \bottomrule
        \end{tabular}
    """
    special = str.maketrans(
        {c: f"\\{c}" for c in "&%$#_{}"} | {"±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$"}
    )
    heading, *body = (" & ".join(cell.translate(special) for cell in row) + r" \\" for row in rows)
    columns = "l" + "r" * (len(rows[0]) - 1)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def format_number(value: float) -> str:
    """Format a number with three digits, whole ones above 100 with commas.

    Example:
        >>> [format_number(value) for value in (0.01234, 5.678, 45.67, 1234.5)]
        ['0.0123', '5.68', '45.7', '1,234']
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def printable_json(document: Any) -> str:
    """Return a document as JSON that stdout can hold, whatever its encoding."""
    return json.dumps(document, indent=1, ensure_ascii=not is_unicode(sys.stdout))
