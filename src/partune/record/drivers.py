"""Coordinate the processes that drive one study (its drivers): who may write, who leads, and who is dead.

A driver takes its turn, reads what the others appended, asks or tells the optimiser, appends, and ends its turn. The
record is therefore the same as if one process had written it. One driver leads: it scores the baselines, runs the
confirmations and gives the verdict. Each driver gives signs of life. When a driver's signs end, others run its trials.

`Files` uses these files, on a file system that all drivers share:

    .driver        the leader holds a lock on it
    .turn          a symbolic link that names the driver whose turn it is; creating a link is atomic on NFS too
    .drivers/NAME  the file of the driver NAME, which keeps it locked: a count that rises, and its machine's boot ID

A driver on the same machine is known to be dead as soon as its file is unlocked. A driver on another machine counts as
dead when its count has not changed for `PATIENCE` seconds on the observer's monotonic clock. Clocks of different
machines are never compared. In PostgreSQL, `partune.record.database.Advisory` uses advisory locks instead of files.
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
from partune.runtime.paths import command_on

LEADER = ".driver"  # the file that the leading driver keeps locked
BEAT = 2.0  # seconds between two signs of life
PATIENCE = 30.0  # seconds without a sign of life after which a driver on another machine counts as dead


class Drivers(ABC):
    """This process as one of the drivers of a study.

    Attributes:
        name: A name that no other driver of the study has.
    """

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex[:16]
        self._depth = 0
        self._mutex = threading.RLock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep all other drivers from writing within the context. A nested context belongs to the same turn."""
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
        """Try to make this driver the leader. Return whether it leads, which is False if another driver does."""

    @abstractmethod
    def led(self) -> bool:
        """Return whether any driver leads the study, this one included."""

    @abstractmethod
    def alive(self, name: str) -> bool:
        """Return whether a driver may still be running. Return False only if the driver is known to be dead."""

    @abstractmethod
    def confirm(self) -> None:
        """Check before a write that this driver still has the turn.

        Raises:
            UserError: This driver lost the turn, for example because it was suspended for long.
        """

    def leave(self) -> None:  # noqa: B027
        """Leave the study."""

    def _take(self) -> None:  # noqa: B027
        """Wait until this driver has the turn."""

    def _give(self) -> None:  # noqa: B027
        """End this driver's turn."""


class Alone(Drivers):
    """The driver of a study that only one driver at a time may run.

    Args:
        path: The file that this driver locks while it leads, or None for a study in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self._path = path
        self._lock: IO[bytes] | None = None

    def lead(self) -> bool:
        """Try to make this driver the leader, and return whether it leads."""
        if self._path is not None and self._lock is None:
            self._lock = locked(self._path)
            return self._lock is not None
        return True

    def led(self) -> bool:
        """Return True, because there is no other driver that could lead."""
        return True

    def alive(self, name: str) -> bool:
        """Return whether the name is that of this driver."""
        return name == self.name

    def confirm(self) -> None:
        """Do nothing, because no other driver takes turns."""

    def leave(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class Files(Drivers):
    """Drivers that detect each other by files in the study's directory.

    Args:
        directory: The study's directory, on a file system that all drivers share.
        recover: A function that repairs the record. If a driver dies during its turn, it may leave half a line. The
            driver that takes the next turn then calls this function.
        patience: Seconds without a sign of life after which a driver on another machine counts as dead.

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
        # For each driver's name: the text of the driver's file, and when that text was first read.
        self._seen: dict[str, tuple[str, float]] = {}
        self._leads = False
        self._end: weakref.finalize[..., Files] | None = None
        try:
            self._enter()
        except OSError as error:
            raise UserError(f"cannot write {directory}: {error.strerror}") from None

    def lead(self) -> bool:
        """Try to make this driver the leader, and return whether it leads."""
        if self._lock is None:
            self._lock = locked(self._directory / LEADER)
        if self._lock is not None and not self._leads:
            self._leads = True
            self._enter()
        return self._leads

    def led(self) -> bool:
        """Return whether any driver leads the study."""
        # Look for the leader's sign of life. Trying the lock on .driver could make another driver's attempt fail.
        names = [path.name for path in (self._directory / ".drivers").glob("lead-*")]
        return any(self.alive(name) for name in names)

    def alive(self, name: str) -> bool:
        """Return whether the driver with a name may still be running."""
        if name == self.name:
            return True
        path = self._sign(name)
        try:
            text = path.read_text(encoding="ascii")
            # A lock is evidence only if the driver runs on this machine. Over NFS, a lock may not be visible elsewhere.
            if text.partition(" ")[2] == BOOT:
                dead = _free(path)
            else:
                # The driver runs on another machine, so its lock may not be visible here: watch its count instead.
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
        """Raise UserError if another driver has ended this driver's turn."""
        if _target(self._link) != self._token:
            again = f"`{command_on('join', self._directory)}`"
            raise UserError(
                f"this process was suspended for so long that the others continued without it: join with {again}"
            )

    def leave(self) -> None:
        """Leave the study."""
        if self._end is not None:
            self._end()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ----- signs of life

    def _enter(self) -> None:
        """Give a sign of life, and start the thread that renews it.

        This is done again when this driver becomes the leader, or if other drivers removed its sign of life.
        """
        if self._end is not None:
            self._end()
        if self._leads and not self.name.startswith("lead-"):
            self.name = f"lead-{self.name}"
        path = self._sign(self.name)
        path.parent.mkdir(exist_ok=True)
        file = path.open("wb", buffering=0)  # kept open, because the lock ends when the file is closed
        try:
            lock(file)
            boot = BOOT
        except OSError:  # without locks, only the count shows whether the driver is alive
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
        took_over, pause = False, 0.0005
        with writing_to(self._directory):
            if not self._sign(self.name).exists():  # while this driver was suspended, the others treated it as dead
                self._enter()
            while not retry_while_full(self._try_to_link):
                took_over = self._end_dead_turn() or took_over
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        if took_over:
            self._recover()

    def _try_to_link(self) -> bool:
        """Create the link that gives this driver the turn, and return whether it has the turn."""
        try:
            os.symlink(self._token, self._link)
        except FileExistsError:  # raised too if NFS lost the answer to a request that succeeded
            return _target(self._link) == self._token
        return True

    def _end_dead_turn(self) -> bool:
        """End the turn of a driver that died during it, and return whether this call ended it.

        Several drivers may notice the same death at once. Only the one that creates the marker named after the dead
        driver's token may remove the link, so that nobody removes the link of a driver that has taken the turn since.
        """
        token = _target(self._link)
        holder = token.rpartition(".")[0]
        if not token or (holder != self.name and self.alive(holder)):
            return False
        marker = self._link.with_name(f".turn-{token}")
        try:
            os.symlink(self.name, marker)
        except FileExistsError:
            # Another driver is ending the turn, or died while ending it. Remove the marker of a dead driver, so that
            # the next call may succeed.
            if (other := _target(marker)) and not self.alive(other):
                marker.unlink(missing_ok=True)
            return False
        # The turn may have changed before the marker was made, so check it again.
        still_dead = _target(self._link) == token
        if still_dead:
            self._link.unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
        return still_dead

    def _give(self) -> None:
        with writing_to(self._directory):
            if _target(self._link) == self._token:
                self._link.unlink(missing_ok=True)


def locked(path: Path) -> IO[bytes] | None:
    """Lock a file for this process and return it, or None if another process holds the lock.

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
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):  # POSIX allows either error for a lock that is taken
            return None
        raise UserError(
            f"files in {path.parent} cannot be locked ({error.strerror}): put the study on a file system with "
            "locks (Lustre has them if it is mounted with flock)"
        ) from None
    return file


def _free(path: Path) -> bool:
    """Return whether no process on this machine has locked a file."""
    with path.open("rb") as file:
        try:
            lock(file, shared=True)  # shared, so that two callers at once do not mistake each other for the driver
        except OSError:
            return False
    return True


def _beat(file: IO[bytes], boot: str, stop: threading.Event) -> None:
    """Keep raising the count in a driver's sign of life until the event is set."""
    for count in itertools.count(1):
        if stop.wait(BEAT):
            return
        with suppress(OSError):  # on a full disk the count does not change, and other machines notice
            _write(file, count, boot)


def _write(file: IO[bytes], count: int, boot: str) -> None:
    """Write the count in place and sync the file, because NFS may not send writes before a sync."""
    os.pwrite(file.fileno(), f"{count:012d} {boot}".encode("ascii"), 0)
    os.fsync(file.fileno())


def _leave(stop: threading.Event, beat: threading.Thread, file: IO[bytes], path: Path, link: Path, name: str) -> None:
    """Stop the thread, end the driver's turn if an interrupt left it open, and remove and close the driver's file."""
    stop.set()
    if beat is not threading.current_thread():
        beat.join()
    with suppress(OSError):
        if _target(link).rpartition(".")[0] == name:
            link.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    file.close()


def _target(link: Path) -> str:
    """Return the target of a symbolic link, or an empty text if there is no link."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def _boot() -> str:
    """Return the ID of this machine's boot, or an ID of this process if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


BOOT = _boot()
