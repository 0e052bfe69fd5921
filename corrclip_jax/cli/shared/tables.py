"""Tables without lines, as all commands print them."""

from rich.table import Table


def plain_table(*columns: str, gap: int = 2) -> Table:
    """A table with bold titles, `gap` spaces between its columns, and columns of text under these titles."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
    for title in columns:
        table.add_column(title, overflow="fold")
    return table


def add_numbers(table: Table, *titles: str) -> None:
    """Add columns of numbers: aligned to the right, never wrapped."""
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
