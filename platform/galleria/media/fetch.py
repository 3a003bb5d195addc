"""Fetches files by HTTP(S) with limits, and never from private addresses."""

import hashlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from galleria.errors import DataError
from galleria.media.limits import LIMITS

MAX_REDIRECTS = 5
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
CHUNK_BYTES = 1 << 16
USER_AGENT = "galleria"


@dataclass(frozen=True)
class FetchOptions:
    """How files are fetched.

    Attributes:
        max_bytes: of a file.
        timeout_s: for one attempt, with its redirects.
        attempts: where the server is unreachable or overloaded.
        backoff_s: before the second attempt; doubles with each.
        connections_per_host: of one process, at the same time.
        cache: folder of the files that were fetched, by the hash of their URL; None keeps none.
        allow_private: also fetch from addresses of the own machine and network.
    """

    max_bytes: int = LIMITS.image_bytes
    timeout_s: float = 30.0
    attempts: int = 3
    backoff_s: float = 1.0
    connections_per_host: int = 4
    cache: str | None = None
    allow_private: bool = False


def is_url(path: str) -> bool:
    """Return whether a path is a URL to be fetched by HTTP(S)."""
    return path[:8].lower().startswith(("http://", "https://"))


class Fetcher:
    """Fetches files; may be used by several threads.

    Args:
        options: its limits.
        is_allowed: whether it may connect to an IP address; by default to public ones, or as `allow_private` says.
    """

    def __init__(self, options: FetchOptions, is_allowed: Callable[[str], bool] | None = None) -> None:
        self._options = options
        self._is_allowed = is_allowed or (is_public if not options.allow_private else lambda _: True)
        self._lock = threading.Lock()
        self._hosts: dict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(options.connections_per_host)
        )

    def fetch(self, url: str) -> bytes:
        """Return the content of a URL, from the cache where it is there.

        Raises:
            DataError: it cannot be fetched: the address is private, the file too large, or the server does not send it.
        """
        cached = None
        if self._options.cache is not None:
            cached = Path(self._options.cache) / hashlib.sha256(url.encode()).hexdigest()
            if cached.exists():
                return cached.read_bytes()
        with self._lock:
            host = self._hosts[urlsplit(url).netloc]
        with host:
            content = self._retry(url)
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_name(f".{cached.name}.{threading.get_ident()}")
            partial.write_bytes(content)
            partial.replace(cached)
        return content

    def _retry(self, url: str) -> bytes:
        for attempt in range(self._options.attempts):
            try:
                return self._follow(url)
            except (_TemporaryError, OSError, http.client.HTTPException) as error:
                if attempt + 1 == self._options.attempts:
                    raise DataError(
                        f"{url} cannot be fetched ({error or type(error).__name__}): try again later, or leave it out"
                    ) from error
                threading.Event().wait(self._options.backoff_s * 2**attempt)
        raise AssertionError("no attempt")

    def _follow(self, url: str) -> bytes:
        end = time.monotonic() + self._options.timeout_s
        target = url
        for _ in range(MAX_REDIRECTS + 1):
            content, redirect = self._request(target, end)
            if redirect is None:
                return content
            target = urljoin(target, redirect)
        raise DataError(f"{url} is redirected over {MAX_REDIRECTS} times: give the file's own URL")

    def _request(self, url: str, end: float) -> tuple[bytes, str | None]:
        """Return the content of a URL, or the location to which it is redirected."""
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            raise DataError(f"{url} is not a URL of HTTP(S) with a host: fix it")
        try:
            port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
            host = parts.hostname.encode("idna").decode()
        except (ValueError, UnicodeError) as error:
            raise DataError(f"{url} is not a valid URL ({error}): fix it") from error
        address = _checked_address(host, port, self._is_allowed)
        connection = _Connection(host, port, address, parts.scheme.lower() == "https", self._remaining(end))
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            quoted = "".join(c if "!" <= c <= "~" else "".join(f"%{byte:02X}" for byte in c.encode()) for c in path)
            connection.request("GET", quoted, headers={"User-Agent": USER_AGENT, "Accept": "*/*"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return b"", response.headers.get("Location", "")
            if response.status in RETRY_STATUSES:
                raise _TemporaryError(f"HTTP {response.status}")
            if response.status != http.client.OK:
                raise DataError(f"{url} answers HTTP {response.status}: fix the URL, or leave it out")
            return self._body(response, connection, url, end), None
        finally:
            connection.close()

    def _body(self, response: http.client.HTTPResponse, connection: "_Connection", url: str, end: float) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            connection.set_timeout(self._remaining(end))
            chunk = response.read1(CHUNK_BYTES)
            if not chunk:
                break
            size += len(chunk)
            if size > self._options.max_bytes:
                raise DataError(f"{url} is over {self._options.max_bytes:,} bytes: send a smaller file")
            chunks.append(chunk)
        if response.length:
            raise _TemporaryError("the connection ended before the file did")
        return b"".join(chunks)

    def _remaining(self, end: float) -> float:
        remaining = end - time.monotonic()
        if remaining <= 0:
            raise _TemporaryError(f"it took over {self._options.timeout_s:g} s")
        return remaining


def _checked_address(host: str, port: int, is_allowed: Callable[[str], bool]) -> str:
    """Return an address of a host to connect to, where all of its addresses are allowed.

    The connection is made to the address that was checked: a name that resolves to another one later gains nothing.

    Raises:
        DataError: an address is private (RFC 1918), of this machine, or otherwise not global.
        OSError: the name does not resolve.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not is_allowed(address):
            raise DataError(f"{host} is at the private address {address}: give a public URL, or a path")
    return found[0]


def is_public(address: str) -> bool:
    """Return whether an IP address is a global unicast one, also where an IPv4 address is inside an IPv6 one."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo and parsed.teredo[1])
        if inner is None and parsed in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner:
            return inner.is_global and not inner.is_multicast
    return parsed.is_global and not parsed.is_multicast


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked, for a host of another name."""

    def __init__(self, host: str, port: int, address: str, is_secure: bool, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self.default_port = 443 if is_secure else 80
        self._address = address
        self._is_secure = is_secure

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._is_secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def set_timeout(self, timeout_s: float) -> None:
        """Set the seconds until the next bytes, where the connection is open yet."""
        if self.sock is not None:
            self.sock.settimeout(timeout_s)


class _TemporaryError(Exception):
    """What may work at the next attempt."""
