"""What the operator is told at start: flags and environment variables, read once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Start-up settings; every field has a flag and an environment variable (see ``__main__``)."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; all if empty."""
    trainer_image: str | None = None
    """Image of attempts whose spec names none."""
    metrics_port: int = 8080
    """Port of the operator's own Prometheus metrics; 0 turns them off."""
    probe_port: int = 8081
    """Port of the endpoints ``/healthz`` and ``/readyz``; 0 turns them off."""
    workers: int = 16
    """Jobs that are reconciled at the same time; twice as many of those that have no RayJob yet."""
    log_level: str = "INFO"
