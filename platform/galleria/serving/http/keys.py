"""API keys: each with a role and a rate limit. Only their hashes are stored."""

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from galleria.durable import locked, write_atomically
from galleria.errors import ConfigurationError
from galleria.learn.recipe import Frozen

logger = logging.getLogger("ray.serve")

Role = Literal["read", "write"]
"""A key with the role "write" may read too."""

VARIABLES: Mapping[Role, str] = {"read": "GALLERIA_READ_KEY", "write": "GALLERIA_WRITE_KEY"}
"""Environment variables that each hold a key."""

PREFIX = "gal_"
RANDOM_BYTES = 32
"""Enough that a key cannot be guessed, so its hash needs neither salt nor a slow function."""

CHECK_INTERVAL_S = 1.0
"""Time between two checks whether the file of keys has changed."""


class Key(Frozen):
    """One key.

    Attributes:
        name: of its owner, for the audit log.
        role: what it may do.
        sha256: hash of the key, in hex.
        per_second: requests a second on average, to each gateway; None for no limit.
    """

    name: str = Field(pattern=r"^[\w.@-]{1,64}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    per_second: float | None = Field(None, gt=0, allow_inf_nan=False)


_FILE = TypeAdapter(list[Key])


class Keys:
    """All keys of a service; false for a service that has neither a file of keys nor a key.

    Follows the file: within `CHECK_INTERVAL_S` a key that is added to it works, and one that is removed does not. While
    the file is missing or damaged, the keys that it had before stay in use.

    Args:
        keys: that are not in the file.
        file: of keys.
        clock: returns seconds.

    Raises:
        ConfigurationError: the file cannot be read, or two keys have one name.
    """

    def __init__(
        self, keys: Sequence[Key] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = list(keys)
        self._file = file
        self._clock = clock
        self._checked_at = clock()
        self._version = _version(file) if file else None
        self._error = ""
        self._keys: list[Key] = []
        self._buckets: dict[Key, TokenBucket] = {}
        self._load()

    def __bool__(self) -> bool:
        return bool(self._keys) or self._file is not None

    def roles(self) -> list[Role]:
        """Return the role of every key."""
        return [key.role for key in self._keys]

    def find(self, token: str) -> Key | None:
        """Return the key of a token. Takes the same time for every wrong token."""
        self._follow()
        sha256 = _sha256(token)
        matching = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, sha256):
                matching = key
        return matching

    def wait_s(self, key: Key) -> float:
        """Count a request of a key; return the seconds that it must wait first, 0 if it is within the key's rate."""
        bucket = self._buckets.get(key)
        return bucket.take(self._clock()) if bucket else 0.0

    def _follow(self) -> None:
        now = self._clock()
        # The clock of the machine that read the keys first may have been ahead of this one's.
        if self._file is None or 0 <= now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        try:
            version = _version(self._file)
            if version != self._version:
                self._load()
                self._version = version
                logger.info("keys: %s has changed, the service has %d keys now", self._file, len(self._keys))
            self._error = ""
        except ConfigurationError as error:
            if str(error) != self._error:
                logger.error("the keys from before stay in use: %s", error)
            self._error = str(error)

    def _load(self) -> None:
        keys = [*(_read(self._file) if self._file else ()), *self._fixed]
        names = [key.name for key in keys]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ConfigurationError(f"keys: {repeated!r} is the name of two keys: give each its own")
        self._keys = keys
        limited = [(key, key.per_second) for key in keys if key.per_second is not None]
        self._buckets = {key: self._buckets.get(key) or TokenBucket(rate) for key, rate in limited}


class TokenBucket:
    """A rate limit of `per_second` requests on average, and as many at once after a pause.

    Args:
        per_second: requests a second.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._updated_at: float | None = None

    def take(self, now: float) -> float:
        """Take a token at the time `now`; return the seconds to wait first if there is none."""
        if self._updated_at is not None:
            self._tokens = min(self._capacity, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


def read_keys(file: str, environment: Mapping[str, str]) -> Keys:
    """Read the keys of a file, if one is named, and of the environment.

    Raises:
        ConfigurationError: the file cannot be read, or two keys have one name.
    """
    keys = [
        Key(name=variable, role=role, sha256=_sha256(environment[variable]))
        for role, variable in VARIABLES.items()
        if environment.get(variable)
    ]
    return Keys(keys, Path(file) if file else None)


def new_key(file: Path, name: str, role: Role, per_second: float | None = None) -> str:
    """Create a key, add its hash to a file that only its owner can read, and return the key: it is not stored.

    Raises:
        ConfigurationError: the name is in use or not valid, or the file cannot be read.
    """
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    try:
        key = Key(name=name, role=role, sha256=_sha256(token), per_second=per_second)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"key {first['loc'][0]}: {first['msg']}") from error
    with locked(file):
        keys = _read(file) if file.exists() else []
        if name in [other.name for other in keys]:
            raise ConfigurationError(f"{file} already has a key named {name!r}: use another name, or remove that key")
        content = _FILE.dump_json([*keys, key], indent=1, exclude_none=True) + b"\n"
        write_atomically(file, content, mode=0o600)
    return token


def _read(file: Path) -> list[Key]:
    try:
        return _FILE.validate_python(json.loads(file.read_bytes()))
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"keys: {file} is not a list of keys ({error}): create it with 'galleria keys'"
        ) from error


def _version(file: Path) -> tuple[int, int, int]:
    """Return what changes whenever a file is written or replaced."""
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    return status.st_mtime_ns, status.st_ino, status.st_size


def _unreadable(file: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"keys: {file} cannot be read ({error.strerror}): create it with 'galleria keys'")


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
