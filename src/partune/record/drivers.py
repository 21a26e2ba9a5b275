"""The processes that drive one study together: whose turn it is to write, who leads, and who is dead.

A driver takes its turn, reads what the others appended, asks or tells, appends, and gives the turn back, so that the
record is the same as if one process had written it. One driver leads: it scores the baselines, confirms and judges the
winner. Each driver gives signs of life; the trials of one that gives none are run again by another.

In files (`Files`), on a file system that all drivers share:

    .driver        the leader holds a lock on it
    .turn          a symbolic link that names whose turn it is; creating one is atomic on NFS too
    .drivers/NAME  a count that its driver keeps raising, and the machine's boot; the driver holds a lock on it

If a driver on the same machine has no lock on its file any more, it is certainly dead, and that is known at once. A
driver on another machine is dead when its count has stood still for `PATIENCE` seconds of the observer's own monotonic
clock: no two machines' clocks are compared.
In PostgreSQL all three are advisory locks (`partune.record.database.Advisory`).
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from partune.errors import UserError
from partune.runtime.disk import retry_while_full, writing_to
from partune.runtime.locks import lock

LEADER = ".driver"  # the file that the leading driver keeps locked
BEAT = 2.0  # seconds between two signs of life
PATIENCE = 30.0  # seconds without one, after which a driver on another machine is dead


class Drivers(ABC):
    """This process among those that drive a study.

    Attributes:
        name: Unique to this driver of this study.
    """

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex[:16]
        self._depth = 0
        self._mutex = threading.RLock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep all other drivers from writing within the context; a turn within a turn is the same one."""
        with self._mutex:
            if self._depth == 0:
                self._take()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._give()

    @abstractmethod
    def lead(self) -> bool:
        """Make this driver the leader, and return whether it is: False where another one leads."""

    @abstractmethod
    def led(self) -> bool:
        """Return whether a driver leads, this one or another."""

    @abstractmethod
    def alive(self, name: str) -> bool:
        """Return whether a driver may still be at work; False only where it is known not to be."""

    @abstractmethod
    def confirm(self) -> None:
        """Check that it is still this driver's turn, before it writes.

        Raises:
            UserError: It lost its turn, as a driver that was suspended for long may have.
        """

    def leave(self) -> None:  # noqa: B027
        """End this driver's part in the study."""

    def _take(self) -> None:  # noqa: B027
        """Wait for the turn."""

    def _give(self) -> None:  # noqa: B027
        """Give the turn back."""


class Alone(Drivers):
    """The only driver that there can be.

    Args:
        path: The file whose lock tells other processes so; None for a study in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self._path = path
        self._lock: IO[bytes] | None = None

    def lead(self) -> bool:
        """Make this driver the leader, and return whether it is."""
        if self._path is not None and self._lock is None:
            self._lock = locked(self._path)
            return self._lock is not None
        return True

    def led(self) -> bool:
        """Return True: this driver leads, or could."""
        return True

    def alive(self, name: str) -> bool:
        """Return whether a name is this driver's."""
        return name == self.name

    def confirm(self) -> None:
        """Do nothing: nobody else takes a turn."""

    def leave(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class Files(Drivers):
    """Drivers that know of each other by files in the study's directory.

    Args:
        directory: The study's, on a file system that all drivers share.
        recover: Called in this driver's turn after another one died in its own: it may have left half a line.
        patience: Seconds without a sign of life after which a driver on another machine is dead.

    Raises:
        UserError: The directory cannot be written.
    """

    def __init__(self, directory: Path, recover: Callable[[], None], patience: float = PATIENCE) -> None:
        super().__init__()
        self._directory = directory
        self._recover = recover
        self._patience = patience
        self._link = directory / ".turn"
        self._counter = itertools.count()
        self._token = ""
        self._lock: IO[bytes] | None = None
        self._seen: dict[str, tuple[str, float]] = {}  # by driver: its count, and when it was first read
        self._leads = False
        self._end: weakref.finalize[..., Files] | None = None
        try:
            self._enter()
        except OSError as error:
            raise UserError(f"cannot write {directory}: {error.strerror}") from None

    def lead(self) -> bool:
        """Make this driver the leader, and return whether it is."""
        if self._lock is None:
            self._lock = locked(self._directory / LEADER)
        if self._lock is not None and not self._leads:
            self._leads = True
            self._enter()
        return self._leads

    def led(self) -> bool:
        """Return whether a driver leads."""
        # Its sign of life says so: to try its lock could keep another driver, which would lead, from having it.
        names = [path.name for path in (self._directory / ".drivers").glob("lead-*")]
        return any(self.alive(name) for name in names)

    def alive(self, name: str) -> bool:
        """Return whether the driver of a name may still be at work."""
        if name == self.name:
            return True
        path = self._sign(name)
        try:
            text = path.read_text(encoding="ascii")
            # A lock says something on the machine that holds it only: over NFS others may not see it.
            if text.partition(" ")[2] == BOOT:
                dead = _free(path)
            else:
                # On another machine: its locks may not reach here, so its count has to move on.
                seen, since = self._seen.setdefault(name, (text, time.monotonic()))
                if seen != text:
                    self._seen[name] = text, time.monotonic()
                dead = seen == text and time.monotonic() - since > self._patience
            if dead:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        return not dead

    def confirm(self) -> None:
        """Check that the turn is still this driver's; raise UserError where it was taken away."""
        if _target(self._link) != self._token:
            raise UserError("this driver was suspended for so long that the others went on without it: join again")

    def leave(self) -> None:
        """End this driver's part in the study."""
        if self._end is not None:
            self._end()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ----- signs of life

    def _enter(self) -> None:
        """Give a sign of life, and start the thread that renews it.

        Called again when this driver becomes the leader, or where the others took its sign away.
        """
        if self._end is not None:
            self._end()
        if self._leads and not self.name.startswith("lead-"):
            self.name = f"lead-{self.name}"
        path = self._sign(self.name)
        path.parent.mkdir(exist_ok=True)
        file = path.open("wb", buffering=0)  # kept open, as the lock ends when it is closed
        try:
            lock(file)
            boot = BOOT
        except OSError:  # a file system without locks: the count alone has to tell
            boot = "no locks here"
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(file, boot, stop), name="driver", daemon=True)
        _write(file, 0, boot)
        beat.start()
        self._end = weakref.finalize(self, _leave, stop, beat, file, path, self._link, self.name)

    def _sign(self, name: str) -> Path:
        return self._directory / ".drivers" / Path(name).name

    # ----- turns

    def _take(self) -> None:
        self._token = f"{self.name}.{next(self._counter)}"
        broke, pause = False, 0.0005
        with writing_to(self._directory):
            if not self._sign(self.name).exists():  # the others took this driver for dead, as it was suspended
                self._enter()
            while not retry_while_full(self._linked):
                broke = self._broken() or broke
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        if broke:
            self._recover()

    def _linked(self) -> bool:
        try:
            os.symlink(self._token, self._link)
        except FileExistsError:  # also where NFS lost the answer to a request that was granted
            return _target(self._link) == self._token
        return True

    def _broken(self) -> bool:
        """Take the turn from a driver that died in it; return whether this driver did.

        Several may see the same death at once. Only the one that creates the marker named after the dead driver's
        token may remove the link, so that nobody removes the link of a driver that has taken the turn since.
        """
        token = _target(self._link)
        holder = token.rpartition(".")[0]
        if not token or (holder != self.name and self.alive(holder)):
            return False
        marker = self._link.with_name(f".turn-{token}")
        try:
            os.symlink(self.name, marker)
        except FileExistsError:
            # Somebody is at it already, or died at it: then its marker goes, and the next attempt may succeed.
            if (other := _target(marker)) and not self.alive(other):
                marker.unlink(missing_ok=True)
            return False
        broken = _target(self._link) == token  # looked at again: the turn may have changed before the marker was made
        if broken:
            self._link.unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
        return broken

    def _give(self) -> None:
        with writing_to(self._directory):
            if _target(self._link) == self._token:
                self._link.unlink(missing_ok=True)


def locked(path: Path) -> IO[bytes] | None:
    """Return a file that this process has locked now; None where another process has.

    Raises:
        UserError: The file cannot be written or locked.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise UserError(f"cannot write {path.parent}: {error.strerror}") from None
    try:
        lock(file)
    except OSError as error:
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):  # POSIX lets a system say either
            return None
        raise UserError(
            f"files in {path.parent} cannot be locked ({error.strerror}): put the study where they can be "
            "(Lustre does it when mounted with flock)"
        ) from None
    return file


def _free(path: Path) -> bool:
    """Return whether nobody on this machine has locked a file."""
    with path.open("rb") as file:
        try:
            lock(file, shared=True)  # so that two who ask at once are not taken for the driver
        except OSError:
            return False
    return True


def _beat(file: IO[bytes], boot: str, stop: threading.Event) -> None:
    """Raise the count of a driver's sign of life until told to stop."""
    for count in itertools.count(1):
        if stop.wait(BEAT):
            return
        with suppress(OSError):  # a full disk: the count stands still, and the others will see
            _write(file, count, boot)


def _write(file: IO[bytes], count: int, boot: str) -> None:
    """Write the count in place and flush it, as NFS keeps what is written to an open file to itself."""
    os.pwrite(file.fileno(), f"{count:012d} {boot}".encode("ascii"), 0)
    os.fsync(file.fileno())


def _leave(stop: threading.Event, beat: threading.Thread, file: IO[bytes], path: Path, link: Path, name: str) -> None:
    """End the thread before its file is closed; remove the sign, and a turn that an interrupt left behind."""
    stop.set()
    if beat is not threading.current_thread():
        beat.join()
    with suppress(OSError):
        if _target(link).rpartition(".")[0] == name:
            link.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    file.close()


def _target(link: Path) -> str:
    """Return the target of a symbolic link; empty where there is no link."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def _boot() -> str:
    """Return a name of this machine since it was started; unique to this process where none is known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


BOOT = _boot()
