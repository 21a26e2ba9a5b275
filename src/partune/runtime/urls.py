"""Parse the URLs of databases for records, and show them without their secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from partune.errors import UserError
from partune.runtime.paths import as_path

if TYPE_CHECKING:
    from sqlalchemy import URL


RULE = "a storage is postgresql://user@host/database or sqlite:///file"
SECRET = re.compile("password|secret|scram")  # keys in the query of a URL whose values are not shown
DATABASE = r"postgres\w*(?:\+\w+)?://"  # the beginning of a database's URL


def parsed(url: str) -> URL:
    """Return a URL as SQLAlchemy's object, with an absolute path for a file.

    Raises:
        UserError: The text is not the URL of a storage. The message does not repeat it, as it may hold a password.
    """
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url.encode()
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError(f"{RULE}, but the value is not a URL") from None
    if parts.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if any("@" in (part or "") for part in (parts.username, parts.host, parts.database)):
            raise UserError("special characters in the URL of a storage must be percent-encoded: @ as %40, / as %2F")
        if not parts.database:
            raise UserError(f"{RULE}, but the URL names no database")
        return parts.set(drivername="postgresql+psycopg")
    if parts.drivername == "sqlite" and parts.database not in (None, "", ":memory:"):
        return URL.create("sqlite", database=str(as_path(parts.database or "").absolute()))
    raise UserError(f"{RULE}, got {parts.drivername}://...")


def public(url: str) -> str:
    """Return a URL without its secrets, for files and messages."""
    from sqlalchemy import URL

    parts = parsed(url)
    query = {key: value for key, value in parts.query.items() if not SECRET.search(key)}
    shown = URL.create(
        parts.drivername.partition("+")[0],
        username=parts.username,
        host=parts.host,
        port=parts.port,
        database=parts.database,
        query=query,
    )
    return shown.render_as_string(hide_password=False)


def masked(text: str) -> str:
    """Return a text without the passwords of the URLs in it.

    Too much is hidden rather than too little: everything up to the last @ of a database's URL, because a password may
    hold characters that should have been percent-encoded.
    """
    for quote in "'\"":  # a URL in quotes may hold spaces
        text = re.sub(rf"(?i)(?<={quote}){DATABASE}[^\n]*?(?={quote}(?:[\s,:)}}\]]|$))", _hidden, text)
    text = re.sub(rf"(?i){DATABASE}[^\s]*", _hidden, text)
    text = re.sub(r"(://[^\s:/@]*):[^\s]*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][^\s=&]*(?:password|secret|scram)[^\s=&]*=)[^\s&'\"]*", r"\1***", text)


def _hidden(match: re.Match[str]) -> str:
    """Return a database's URL, which `masked` found in a text, without its password."""
    scheme, _, rest = match[0].partition("://")
    secret, at, location = rest.rpartition("@")
    user = re.split("[:@/?#]", rest, maxsplit=1)[0]
    if at:
        return match[0] if secret == user else f"{scheme}://{user}:***@{location}"
    host, colon, port = rest.partition(":")
    # Without an @ the text is a URL with a port, or a URL that was cut in the middle of the password (user:pass).
    is_port = not colon or host.startswith("[") or re.match(r"\d*(?!\w)", port)
    return match[0] if is_port else f"{scheme}://{host}:***"
