"""Connect to the workers of a Dask scheduler that is already running."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import distributed
from distributed import Client

from partune.errors import UserError
from partune.runtime.network import is_loopback
from partune.workers.certificates import read_certificates
from partune.workers.cluster import Cluster, log

CONNECT = 30.0  # seconds to wait for an answer of the scheduler


@contextlib.contextmanager
def joined(address: str, time_limit: float | None = None, tls: Path | None = None) -> Iterator[Cluster]:
    """Provide the workers of a Dask scheduler that is already running.

    Args:
        address: The scheduler's address, such as tcp://10.0.0.5:8786.
        time_limit: The number of seconds that a task may take on its worker; None for no limit.
        tls: A folder that `write_certificates` made; None for a scheduler that requires no certificate.

    Raises:
        UserError: No scheduler answers, or its traffic would cross a network unencrypted.
    """
    host, _ = _host_and_port(address)
    if tls is not None and not address.startswith("tls://"):
        raise UserError(f"{address} is not encrypted, but --tls needs encryption: use tls://{address.split('://')[-1]}")
    if tls is None and not is_loopback(host):
        raise UserError(
            f"{address} is not on this machine, and whoever reaches a scheduler can run code. Use `--tls FOLDER` with "
            "the certificates that the scheduler was started with (`partune certificates FOLDER` makes some)"
        )
    if tls is None:
        log.warning(
            "%s requires no certificate, so every user of this machine can run code as you there. "
            "`partune certificates FOLDER` makes certificates that prevent this.",
            address,
        )
    security = None if tls is None else read_certificates(tls)

    def connect() -> Client:
        return Client(address, timeout=CONNECT, security=security, set_as_default=False)

    try:
        cluster = Cluster(connect, time_limit)
    except (OSError, TimeoutError) as error:
        raise UserError(f"no scheduler answers at {address}: {' '.join(str(error).split())[:200]}") from None
    with cluster:
        yield cluster


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        host_and_port: tuple[str, int] = distributed.comm.parse_host_port(distributed.comm.parse_address(address)[1])
    except ValueError as error:
        raise UserError(f"{address} is not an address of a scheduler, such as tcp://10.0.0.5:8786: {error}") from None
    return host_and_port
