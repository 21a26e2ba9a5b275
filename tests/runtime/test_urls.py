"""URLs of storages: what is read, and what nobody may see of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune import UserError
from partune.config import parse
from partune.runtime import urls


def test_messages_mask_passwords() -> None:
    assert urls.masked("at postgresql://me:a@b:c@host/db?sslpassword=x&y=1: no") == (
        "at postgresql://me:***@host/db?sslpassword=***&y=1: no"
    )
    for password in (
        "p@s3cr3t",
        "s3cr3t/x@y",
        "a b s3cr3t",
        "#s3cr3t",
        "s3cr3t%",
        "x?s3cr3t",
        "@:/s3cr3t",
        "a'@s3cr3t",
    ):
        for user in ("me", "me@corp", "first.last"):
            shown = urls.masked(f"got {{'storage': 'postgresql://{user}:{password}@host/db'}}")
            assert "s3cr3t" not in shown
            assert shown.endswith("***@host/db'}")
    assert "s3cr3t" not in urls.masked("postgres://me:s3cr3t is no URL")
    for plain in (
        "postgresql://first.last@host:5432/db",
        "postgresql://me%40corp@[::1]/db?sslmode=require",
        "http://a:80",
    ):
        assert urls.masked(f"at {plain}: no") == f"at {plain}: no"
    with pytest.raises(UserError, match=r"postgresql://me:\*\*\*@host/db") as refused:
        parse({"objective": "branin", "run": "postgresql://me:s3cr3t@host/db"})
    assert "s3cr3t" not in str(refused.value)


def test_a_public_url_has_all_but_the_secrets() -> None:
    url = "postgresql+psycopg://me:s3cr3t@host:5433/db?sslmode=require&sslpassword=s3cr3t"
    assert urls.public(url) == "postgresql://me@host:5433/db?sslmode=require"
    assert urls.parsed(url).password == "s3cr3t"


def test_a_files_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert urls.parsed("sqlite:///all.db").database == str(tmp_path / "all.db")
