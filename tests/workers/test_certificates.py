"""Certificates: only their owner can read the key, and no folder is written twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.errors import UserError
from partune.workers import certificates


def test_a_folder_is_read_as_it_was_written_and_only_by_its_owner(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tls"
    certificates.write_certificates(folder)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"tls": 0o700, certificates.CERTIFICATE: 0o600, certificates.KEY: 0o600}
    security = certificates.read_certificates(folder)
    for role in certificates.ROLES:
        assert security.get_tls_config_for_role(role)["cert"] == str(folder / certificates.CERTIFICATE)
    with pytest.raises(UserError, match="cannot write"):
        certificates.write_certificates(folder)


def test_a_folder_without_a_key_is_one_line(tmp_path: Path) -> None:
    certificates.write_certificates(tmp_path / "tls")
    (tmp_path / "tls" / certificates.KEY).unlink()
    with pytest.raises(
        UserError, match=r"no certificates in .*tls: key\.pem is missing\. `partune certificates FOLDER"
    ):
        certificates.read_certificates(tmp_path / "tls")


@pytest.mark.slow
def test_a_worker_is_told_its_certificate_by_its_environment() -> None:
    certificate, key = certificates.certified()
    told = certificates.environment_of(certificates.security_of(certificate, key))
    assert list(told) == list(certificates.VARIABLES)
    assert list(told.values()) == [certificate, certificate, key]
