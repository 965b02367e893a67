"""Text tables: aligned columns for a terminal, Markdown for a page."""

from collections.abc import Sequence

# The first character of a text that spreadsheets take for a formula, or skip to reach one.
FORMULA = r"^([=+\-@\t\r\n" + "\uff1d\uff0b\uff0d\uff20" + "])"


def three_decimals(*values: float) -> list[str]:
    """Scores rounded to three decimals, such as 0.812."""
    return [f"{value:.3f}" for value in values]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text: the first column left-aligned, the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows as a Markdown table; the first row is the header.

    Args:
        rows: all of the same length.
        left: number of leading columns that are left-aligned; the others are right-aligned.
    """
    rule = [*["---"] * left, *["---:"] * (len(rows[0]) - left)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def percent(part: int, whole: int) -> str:
    """A share such as 12.5%; "-" when the whole is 0."""
    return f"{part / whole:.1%}" if whole else "-"
