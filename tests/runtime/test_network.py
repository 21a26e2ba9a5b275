"""Which hosts are this machine."""

from __future__ import annotations

import pytest

from partune.runtime.network import LOOPBACK, is_loopback


@pytest.mark.parametrize("host", [LOOPBACK, "127.3.4.5", "::1", "localhost"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "example.org", "localhost.example.org", ""])
def test_another_machine(host: str) -> None:
    assert not is_loopback(host)
