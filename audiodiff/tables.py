"""Tables of text: aligned columns for a terminal, or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Align = Literal["left", "right"]
"""How the columns after the first, which is always to the left, are aligned."""


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
