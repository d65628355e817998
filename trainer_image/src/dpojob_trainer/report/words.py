"""Numbers as people read them, and text that a page can hold. Pure."""

import math
import re

NBSP = "\u00a0"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def number(value: float | int | None) -> str:
    """Return a number in at most four digits, whole numbers with thousands separated."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")


def signed(value: float) -> str:
    """Return a number with its sign."""
    return ("+" if value > 0 else "") + number(value)


def percent(value: float | None) -> str:
    """Return a share in percent."""
    return "–" if value is None else f"{100 * value:.3g}{NBSP}%"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NBSP}h {minutes}{NBSP}min"


def printable(text: str) -> str:
    """Return text without control characters, which have no place in HTML; line breaks and tabs stay."""
    return CONTROL.sub("�", text.replace("\r\n", "\n"))
