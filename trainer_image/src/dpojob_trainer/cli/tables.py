"""Tables on a terminal, all of one look."""

from rich import box
from rich.table import Table


def table(title: str, *columns: str, numbers: slice) -> Table:
    """Return an empty table; the columns of `numbers` are aligned on the right."""
    found = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in found.columns[numbers]:
        column.justify = "right"
    return found
