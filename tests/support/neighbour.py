"""What another user of the same machine can do to a study's processes: run as root, with ports and process numbers.

It imports what it needs, becomes a user that nobody is, and prints what it got hold of, one finding a line.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distributed import Client, Security
from distributed.core import rpc

STRANGER = 54321
PAGES = ("/", "/info/main/workers.html", "/json/counts.json", "/metrics", "/health", "/sitemap.json")


def read(port: int, page: str, tls: bool) -> bytes:
    """The first bytes of an answer to a request for a page."""
    with socket.create_connection(("127.0.0.1", port), timeout=2.0) as plain:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(plain) if tls else plain
        connection.sendall(f"GET {page} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(100)


def pages(ports: list[int]) -> Iterator[str]:
    for port in ports:
        for page, tls in [(page, tls) for page in PAGES for tls in (False, True)]:
            try:
                answer = read(port, page, tls)
            except OSError:
                continue
            if answer.startswith(b"HTTP"):
                yield f"page {page}"


async def calls(ports: list[int]) -> list[str]:
    """What answers a call, in the clear and with a certificate of one's own."""
    found = []
    mine = Security.temporary()
    for port in ports:
        for kind, security in (("tcp", Security()), ("tls", mine)):
            there = rpc(f"{kind}://127.0.0.1:{port}", timeout=1, connection_args=security.get_connection_args("client"))
            try:
                found.append(f"call {(await asyncio.wait_for(there.identity(), 2.0))['type']}")
            except Exception:  # a server that is none of Dask's may answer anything, such as the size of a huge message
                pass
            finally:
                await there.close_rpc()
    return found


def pickles(ports: list[int]) -> Iterator[str]:
    for port in ports:
        for kind, security in (("tcp", None), ("tls", Security.temporary())):
            try:
                with Client(f"{kind}://127.0.0.1:{port}", timeout=1, security=security) as client:
                    yield f"code as user {client.submit(os.getuid).result(timeout=10)}"
            except Exception:  # where no scheduler listens, in many ways
                continue


def readable(process: int, name: str) -> bytes:
    """What a process shows of itself: nothing where it may not be read, or has ended since it was listed."""
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:
        return b""


def secrets(processes: list[int]) -> Iterator[str]:
    for process in processes:
        for name in ("environ", "cmdline"):
            if b"PRIVATE KEY" in readable(process, name):
                yield f"key in {name}"
        for word in readable(process, "cmdline").split(b"\0"):
            if word.startswith(b"/") and word.endswith(b".pem") and os.access(word, os.R_OK):
                yield f"key file {word.decode()}"
    for folder in Path(tempfile.gettempdir()).glob("*partune*"):
        if os.access(folder, os.R_OK | os.X_OK) and any(folder.rglob("*.pem")):
            yield f"key below {folder}"


if __name__ == "__main__":
    ports, processes = ([int(number) for number in text.split(",")] for text in sys.argv[1:])
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)
    for finding in [*pages(ports), *asyncio.run(calls(ports)), *secrets(processes)]:
        print(finding)
    for finding in pickles(ports):
        print(finding)
