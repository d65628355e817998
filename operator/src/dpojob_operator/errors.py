"""What can go wrong at the API server, by what follows from it."""


class KubeError(Exception):
    """An answer of the API server that is not a success; the message repeats the server's words."""


class NotFoundError(KubeError):
    """The object, or its kind, does not exist."""


class ForbiddenError(KubeError):
    """RBAC, a quota or an admission plugin refuses it."""


class ConflictError(KubeError):
    """The object exists already, or has changed since it was read."""


class ExpiredError(KubeError):
    """The version that a watch or a page asks for is too old; a new list helps."""


class InvalidError(KubeError):
    """The object does not pass validation or admission."""


class TransientError(KubeError):
    """The server cannot be reached or is overloaded; the same request may succeed later."""


def error_for(status: int, message: str) -> KubeError:
    """Return the error that an HTTP status stands for."""
    kinds: dict[int, type[KubeError]] = {
        400: InvalidError,
        403: ForbiddenError,
        404: NotFoundError,
        409: ConflictError,
        410: ExpiredError,
        422: InvalidError,
    }
    return kinds.get(status, TransientError)(f"{message} (HTTP {status})")
