"""How the operator reaches the API server: kopf's own logins, used for the operator's own watches and calls.

The official client is only imported where a kubeconfig names a plugin for its credentials, since importing it takes as
much memory as a thousand jobs do.
"""

import logging
import os
import time
from dataclasses import replace

import aiohttp
import kopf

log = logging.getLogger(__name__)

RELOAD_SECONDS = 60.0
"""After which the token is read again; the kubelet rotates it long before it expires."""
CONNECTIONS = 32
"""For calls; each has buffers of a quarter of a megabyte."""
TIMEOUT = aiohttp.ClientTimeout(total=35.0, sock_connect=5.0)


def log_in() -> kopf.ConnectionInfo:
    """Return the connection of the pod's service account, or of the kubeconfig outside a cluster.

    Raises:
        kopf.LoginError: there is neither.
    """
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings)
    if found is not None:
        return replace(found, server=cluster_address() or found.server)
    found = kopf.login_with_kubeconfig(settings=settings)
    if found is not None and (found.as_http_headers() or found.certificate_path or found.certificate_data):
        return found
    found = kopf.login_via_client(settings=settings, logger=log)
    if found is None:
        raise kopf.LoginError("no connection to a cluster: run in a pod or set KUBECONFIG")
    return found


def cluster_address() -> str | None:
    """Return the address that the kubelet gives to every container; it needs no name service."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class Connection:
    """Sessions with the API server, for calls and for watches; the credentials are read again from time to time."""

    def __init__(self, info: kopf.ConnectionInfo) -> None:
        self._info = info
        self._read_at = time.monotonic()
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return self._info.server.rstrip("/")

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session for calls, opened in the running event loop at its first use."""
        return self._session_of(CONNECTIONS)

    @property
    def streams(self) -> aiohttp.ClientSession:
        """The session for watches, each of which holds a connection."""
        return self._session_of(0)

    def _session_of(self, limit: int) -> aiohttp.ClientSession:
        if limit not in self._sessions:
            secure = self._info.as_ssl_context() if self.server.startswith("https") else True
            connector = aiohttp.TCPConnector(limit=limit, ssl=secure)
            self._sessions[limit] = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        return self._sessions[limit]

    def headers(self) -> dict[str, str]:
        """Return the headers with the newest credentials."""
        if kopf_has_token(self._info) and time.monotonic() > self._read_at + RELOAD_SECONDS:
            self._info = log_in()
            self._read_at = time.monotonic()
        return self._info.as_http_headers()

    async def close(self) -> None:
        """Close the sessions."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def kopf_has_token(info: kopf.ConnectionInfo) -> bool:
    """Return whether credentials are a token, which may expire."""
    return info.token is not None
