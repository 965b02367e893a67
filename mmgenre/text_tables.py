"""Tables for people: aligned text for a terminal, Markdown for a page."""

from collections.abc import Sequence


def figures(*values: float) -> list[str]:
    """Scores with three digits."""
    return [f"{value:.3f}" for value in values]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose header is the first row; so many columns to the left, the others to the right."""
    rule = [*["---"] * left, *["---:"] * (len(rows[0]) - left)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def percent(part: int, whole: int) -> str:
    """A share of a whole; of nothing there is none."""
    return f"{part / whole:.1%}" if whole else "-"
