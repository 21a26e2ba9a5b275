"""The workers of a scheduler that runs already: what addresses are taken, and certificates."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from partune.errors import UserError
from partune.workers import certificates, local
from partune.workers.scheduler import joined
from tests.support.calls import pid
from tests.support.dask_commands import free_port, scheduler, worker
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://10.1.2.3:8786", "is not on this machine"),
        ("tcp://scheduler.example.org:8786", "is not on this machine"),
        ("nonsense", "not an address of a scheduler"),
    ],
)
def test_an_address_that_is_unsafe_or_none_is_one_line(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught, joined(address):
        pass
    assert "\n" not in str(caught.value)


def test_certificates_ask_for_an_address_that_says_so(tmp_path: Path) -> None:
    certificates.write_certificates(tmp_path / "tls")
    unencrypted = joined("tcp://10.1.2.3:8786", tls=tmp_path / "tls")
    with pytest.raises(UserError, match=r"is not encrypted.*: use tls://10.1.2.3:8786"), unencrypted:
        pass


@pytest.mark.slow
def test_nobody_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partune.workers.scheduler.CONNECT", 0.5)
    nobody = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"no scheduler answers at {nobody}"), joined(nobody):
        pass


@pytest.mark.slow
def test_with_certificates_a_cluster_is_closed_to_others(tmp_path: Path, started: Callable[..., Any]) -> None:
    folder = tmp_path / "tls"
    certificates.write_certificates(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with pytest.raises(UserError, match="cannot write"):
        certificates.write_certificates(folder)
    port = free_port()
    tls = [part for kind, name in certificates.FILES.items() for part in (f"--tls-{kind}", str(folder / name))]
    process = started(*scheduler(port), *local.UNSEEN, "--protocol", "tls", *tls)
    started(*worker(f"tls://127.0.0.1:{port}"), *tls)
    with joined(f"tls://127.0.0.1:{port}", tls=folder) as workers:
        assert workers.submit(pid).result(timeout=PATIENCE) > 0
        listening = [each for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"]
        assert [each.laddr.port for each in listening] == [port]  # no pages
    other = tmp_path / "other"
    certificates.write_certificates(other)
    with pytest.raises(UserError, match="no scheduler answers"), joined(f"tls://127.0.0.1:{port}", tls=other):
        pass
