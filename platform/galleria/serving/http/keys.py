"""Who may ask: keys with a role, of which only the hash is kept, and how often each may ask."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from galleria.durable import write_atomically
from galleria.errors import ConfigurationError
from galleria.learn.recipe import Frozen

Role = Literal["read", "write"]
"""A key that writes reads too."""

VARIABLES: Mapping[Role, str] = {"read": "GALLERIA_READ_KEY", "write": "GALLERIA_WRITE_KEY"}
"""Environment variables that hold a key each."""

PREFIX = "gal_"
RANDOM_BYTES = 32
"""So many that a key cannot be guessed, and its hash needs no salt and no slowness."""


class Key(Frozen):
    """One key.

    Attributes:
        name: whose it is, for the audit log.
        role: what it may do.
        sha256: hash of the key, in hex.
        per_second: requests that it may send in a second on average, to each gateway; None for any number.
    """

    name: str = Field(pattern=r"^[\w.@-]{1,64}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    per_second: float | None = Field(None, gt=0, allow_inf_nan=False)


_FILE = TypeAdapter(list[Key])


class Keys:
    """All keys of a service; false where there are none.

    Args:
        keys: each with a name of its own.
    """

    def __init__(self, keys: list[Key]) -> None:
        self._keys = keys
        self._meters = {key.name: TokenBucket(key.per_second) for key in keys if key.per_second is not None}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, token: str) -> Key | None:
        """The key that this is. Takes the same time for every wrong one."""
        asked = _sha256(token)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, asked):
                found = key
        return found

    def wait(self, key: Key) -> float:
        """Count a request of a key; the seconds that it must wait first, 0 where it may be answered."""
        meter = self._meters.get(key.name)
        return meter.take(time.monotonic()) if meter else 0.0


class TokenBucket:
    """Lets `per_second` requests pass on average, and as many at once after a pause (a token bucket).

    Args:
        per_second: requests a second.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._most = max(1.0, per_second)
        self._left = self._most
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Seconds to wait at `now`; 0 counts as one request."""
        if self._at is not None:
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


def read_keys(file: str, environment: Mapping[str, str]) -> Keys:
    """The keys of a file, where one is named, and of the environment.

    Raises:
        ConfigurationError: the file cannot be read, or two keys have one name.
    """
    keys = _read(Path(file)) if file else []
    for role, variable in VARIABLES.items():
        if environment.get(variable):
            keys.append(Key(name=variable, role=role, sha256=_sha256(environment[variable])))
    names = [key.name for key in keys]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigurationError(f"keys: {repeated!r} is the name of two keys: give each its own")
    return Keys(keys)


def new_key(file: Path, name: str, role: Role, per_second: float | None = None) -> str:
    """Make a key, add its hash to a file that only its owner can read, and return the key: it is kept nowhere.

    Raises:
        ConfigurationError: the name is taken or cannot be used, or the file cannot be read.
    """
    keys = _read(file) if file.exists() else []
    if name in [key.name for key in keys]:
        raise ConfigurationError(f"{file} has a key of the name {name!r}: take another name, or remove that one")
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    try:
        keys.append(Key(name=name, role=role, sha256=_sha256(token), per_second=per_second))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"key {first['loc'][0]}: {first['msg']}") from error
    write_atomically(file, _FILE.dump_json(keys, indent=1, exclude_none=True) + b"\n", mode=0o600)
    return token


def _read(file: Path) -> list[Key]:
    try:
        return _FILE.validate_python(json.loads(file.read_bytes()))
    except OSError as error:
        raise ConfigurationError(
            f"keys: {file} cannot be read ({error.strerror}): make it with 'galleria keys'"
        ) from error
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(f"keys: {file} is no list of keys ({error}): make it with 'galleria keys'") from error


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
