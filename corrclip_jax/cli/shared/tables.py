"""Tables without lines, in the style of all commands."""

from rich.table import Table


def plain_table(*columns: str, gap: int = 2) -> Table:
    """A table with these columns of text under bold titles, and `gap` spaces between columns."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
    for title in columns:
        table.add_column(title, overflow="fold")
    return table


def add_numbers(table: Table, *titles: str) -> None:
    """Add columns of numbers: right-aligned, never wrapped."""
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
