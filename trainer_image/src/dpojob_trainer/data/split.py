"""Which rows are held out for evaluation."""

from hashlib import sha256


def held_out(rows: int, fraction: float, seed: int) -> list[int]:
    """Return the ascending indices of the rows that are held out: the share ``fraction``, at least one.

    A row is ranked by a hash of the seed and its index, so the choice depends on nothing else: not on the host, the
    mesh, lengths or library versions.
    """
    if fraction == 0.0 or rows == 0:
        return []
    ranked = sorted(range(rows), key=lambda index: sha256(f"{seed}:{index}".encode()).digest())
    return sorted(ranked[: max(1, round(rows * fraction))])
