"""JSON logs on stderr, one object per line; lines of a reconcile carry its job and attempt."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

Key = tuple[str, str]

_subject: ContextVar[Mapping[str, str | int] | None] = ContextVar("subject", default=None)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _subject.get() or {}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def about(key: Key) -> Iterator[None]:
    """Let the lines of this task carry a job's namespace and name."""
    namespace, job = key
    token = _subject.set({"namespace": namespace, "job": job})
    try:
        yield
    finally:
        _subject.reset(token)


def name_attempt(number: int) -> None:
    """Let the lines carry an attempt's number as well, until :func:`about` ends."""
    subject = _subject.get()
    if subject is not None:
        _subject.set({**subject, "attempt": number})


def configure(level: str) -> None:
    """Send every log record to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Their lines repeat every request and every watch event.
    for name in ("httpx", "httpcore", "urllib3", "aiohttp.access", "kopf.objects"):
        logging.getLogger(name).setLevel(logging.WARNING)
