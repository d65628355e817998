"""docs/benchmarks.md: each command's tables stand between two marks of their own."""

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def keep(name: str, section: str) -> None:
    """Put a section in the place of the last one of that name, or at the end if there is none."""
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(), name, section))


def replaced(text: str, name: str, section: str) -> str:
    """Return the text with `section` between the marks of `name`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    if not found:
        head = f"{text.rstrip()}\n\n"
    return f"{head}{begin}\n{section}{end}{rest.partition(end)[2]}".rstrip() + "\n"
