"""What hosts tell the driver while they run: events and outcomes over one authenticated TCP connection per host.

It serves every launcher alike: eformer runs a host in a forked child that cannot call Ray.
"""

import queue
import threading
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from types import TracebackType

from dpojob_api.result import TrainerResult
from dpojob_trainer.progress import Event, HostReport

Payload = Event | HostReport | TrainerResult


@dataclass(frozen=True)
class Message:
    """Something that the host of a rank tells: an event, or as its last word its report or why it failed."""

    rank: int
    payload: Payload


@dataclass(frozen=True)
class Address:
    """Where the driver listens; `key` authenticates both sides (HMAC)."""

    host: str
    port: int
    key: bytes


class Receiver:
    """The driver's side: accepts hosts and queues what they tell."""

    def __init__(self, host: str, key: bytes) -> None:
        self._listener = Listener(("0.0.0.0", 0), backlog=256, authkey=key)
        self.address = Address(host, self._listener.address[1], key)
        self._messages: queue.Queue[Message] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return
            except Exception:
                # A stranger without the key, or one that broke off; the hosts are waited for elsewhere.
                continue
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: Connection) -> None:
        while True:
            try:
                self._messages.put(connection.recv())
            except (EOFError, OSError):
                return

    def get(self, seconds: float) -> Message | None:
        """Return the next message, None if none comes in time."""
        try:
            return self._messages.get(timeout=seconds)
        except queue.Empty:
            return None

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()


class Sender:
    """A host's side."""

    def __init__(self, address: Address, rank: int) -> None:
        self._connection = Client((address.host, address.port), authkey=address.key)
        self._rank = rank

    def send(self, payload: Payload) -> None:
        """Tell the driver. A driver that is gone is noticed by Ray, which then ends this process."""
        self._connection.send(Message(self._rank, payload))

    def close(self) -> None:
        """Close the connection after everything is sent."""
        self._connection.close()
