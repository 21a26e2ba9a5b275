"""URLs of a record's storage: read, and shown without their secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from partune.errors import UserError
from partune.runtime.paths import place

if TYPE_CHECKING:
    from sqlalchemy import URL


RULE = "a storage is postgresql://user@host/database or sqlite:///file"


SECRET = re.compile("password|secret|scram")  # keys of a URL's query that are not shown


DATABASE = r"postgres\w*(?:\+\w+)?://"  # how its URL begins


def parsed(url: str) -> URL:
    """A URL in SQLAlchemy's form, a file's path absolute. Raises UserError, which does not repeat what was given."""
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url.encode()
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError(f"{RULE}, got something that is no URL") from None
    if found.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if any("@" in (part or "") for part in (found.username, found.host, found.database)):
            raise UserError("special characters in a storage's password are written in percent: @ is %40, / is %2F")
        if not found.database:
            raise UserError(f"{RULE}, got one without a database")
        return found.set(drivername="postgresql+psycopg")
    if found.drivername == "sqlite" and found.database not in (None, "", ":memory:"):
        return URL.create("sqlite", database=str(place(found.database or "").absolute()))
    raise UserError(f"{RULE}, got {found.drivername}://...")


def public(url: str) -> str:
    """The URL without its secrets, to be written and shown."""
    from sqlalchemy import URL

    found = parsed(url)
    query = {key: value for key, value in found.query.items() if not SECRET.search(key)}
    shown = URL.create(
        found.drivername.partition("+")[0],
        username=found.username,
        host=found.host,
        port=found.port,
        database=found.database,
        query=query,
    )
    return shown.render_as_string(hide_password=False)


def masked(text: str) -> str:
    """A text in which no URL has a password, nor a part of one that was not written in percent.

    Rather too much than too little: of a database's URL, all up to its last @.
    """
    for quote in "'\"":  # in quotes there may be blanks
        text = re.sub(rf"(?i)(?<={quote}){DATABASE}[^\n]*?(?={quote}(?:[\s,:)}}\]]|$))", _hidden, text)
    text = re.sub(rf"(?i){DATABASE}[^\s]*", _hidden, text)
    text = re.sub(r"(://[^\s:/@]*):[^\s]*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][^\s=&]*(?:password|secret|scram)[^\s=&]*=)[^\s&'\"]*", r"\1***", text)


def _hidden(found: re.Match[str]) -> str:
    scheme, _, rest = found[0].partition("://")
    secret, at, place = rest.rpartition("@")
    user = re.split("[:@/?#]", rest, maxsplit=1)[0]
    if at:
        return found[0] if secret == user else f"{scheme}://{user}:***@{place}"
    host, colon, port = rest.partition(":")
    is_port = not colon or host.startswith("[") or re.match(r"\d*(?!\w)", port)
    return found[0] if is_port else f"{scheme}://{host}:***"  # a password, and the host forgotten
