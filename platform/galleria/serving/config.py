"""The service's configuration."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints, field_validator, model_validator

from galleria.deprecation import rename_deprecated
from galleria.learn.recipe import Frozen
from galleria.media.limits import LIMITS, Limits

Kind = Literal["search", "classify", "events"]
"""What a model is for."""

SEARCH: Kind = "search"
"""Name of the model that embeds queries, in addition to those of `ServiceConfig.models`."""


class BundleLocation(NamedTuple):
    """Path of a bundle, and its hash: a request names the bundle that must run it."""

    path: str
    hash: str


@dataclass(frozen=True, slots=True)
class CatalogLocation:
    """Paths of a product table and its index, and the hash of the bundle that computed their vectors."""

    table: str
    index: str
    bundle_hash: str


ORIGIN = re.compile(r"\*|https?://[a-z0-9.:\[\]-]+")
"""What browsers send as `Origin`: scheme, host, and a port that is not the scheme's own; without a path. Or all."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")]


OLD_NAMES = {
    "waiting": "max_concurrent_queries",
    "writes_waiting": "max_concurrent_writes",
    "videos_waiting": "max_concurrent_videos",
    "answer_seconds": "target_latency_s",
    "read_seconds": "body_timeout_s",
    "version_seconds": "version_timeout_s",
    "shard_seconds": "shard_timeout_s",
    "predict_seconds": "predict_timeout_s",
    "video_seconds": "video_timeout_s",
    "keep_days": "version_retention_days",
    "batch_size": "max_batch_size",
}
"""Options that had another name in 0.1."""

MOVED_OPTIONS = {
    "gateway_replicas": ("Gateway", "num_replicas"),
    "gateway_cpus": ("Gateway", "num_cpus"),
    "shard_replicas": ("Shard-0", "num_replicas"),
    "shard_cpus": ("Shard-0", "num_cpus"),
    "model_replicas": ("Model-search", "num_replicas"),
    "search_cpus": ("Model-search", "num_cpus"),
    "model_cpus": ("Model-NAME", "num_cpus"),
}
"""Option of 0.1 → deployment and its option in Ray Serve's `deployments:`, which says it now."""


class ServiceConfig(Frozen):
    """Options of the service: the `args` of a Ray Serve config file.

    It searches where it has `bundle`, `table` and `index`, and answers for each of `models`: one of the two, or both.
    With `releases` instead it serves what that folder's aliases resolve to, and follows them: the one named "search"
    searches, and the others classify or find events.
    """

    bundle: str = Field("", description="folder of the bundle that embeds queries")
    table: str = Field("", description="path of the product table that is searched")
    index: str = Field("", description="folder of the table's index")
    models: dict[Name, str] = Field(
        default_factory=dict, description="folders of bundles that classify pictures or find events in videos, by name"
    )
    releases: str = Field(
        "", description="folder of releases, written by 'galleria publish', whose aliases are served and followed"
    )
    limits: Limits = Field(LIMITS, description="largest sizes of a request; see `GET /v1/limits`")
    max_batch_size: int = Field(16, gt=0, description="largest number of queries in one inference batch")
    writable: bool = Field(
        False,
        description="accept requests that write and delete items; keys need the role 'write' for it",
    )
    keys: str = Field(
        "",
        description="file of API keys, written by 'galleria keys'; without keys only loopback is served",
    )
    audit: str = Field(
        "", description="file to append a line of JSON to for every write; writes are logged in any case"
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="origins whose pages may use the service from a browser, such as https://shop.example, or '*' for "
        "all; a service without keys trusts every page of them",
    )
    stores: tuple[str, ...] = Field(
        (),
        description="URIs of the folders that items' pictures may be read from, such as s3://shop/pictures; a query "
        "(?region=…&endpoint_override=…) and a password are not part of the pictures' URIs",
    )
    version_retention_days: float = Field(
        7,
        description="days for which old versions of the product table without a tag are kept, at least 1/24: replicas "
        "and index builds read them for up to an hour",
    )
    threads: int = Field(
        2, gt=0, description="threads that decode pictures for one model, and threads that search in one gateway"
    )
    shards: Literal["local", "deployed"] = Field(
        "local",
        description="where the index is searched: in every gateway, or in one deployment a shard",
    )
    runtime: Literal["auto", "torch"] = Field(
        "auto",
        description="'auto': ONNX Runtime for pictures where it is installed and faster, with equal vectors",
    )
    inference: Literal["local", "deployed"] = Field(
        "local", description="where models run: in every gateway (local), or in one deployment a model (deployed)"
    )
    max_concurrent_queries: int = Field(
        64, gt=0, description="queries in flight in one gateway; more are rejected with 429"
    )
    target_latency_s: float = Field(
        0.5, gt=0, description="seconds; while responses are slower, a gateway admits fewer queries at a time"
    )
    max_concurrent_writes: int = Field(
        16,
        gt=0,
        description="writes in flight in one gateway, which holds them in memory; more are rejected",
    )
    max_concurrent_videos: int = Field(
        4, gt=0, description="videos in flight in one gateway, which holds them in memory; more are rejected"
    )
    max_body_memory_bytes: int = Field(
        1_000_000_000,
        gt=0,
        description="bytes of the bodies of requests that one gateway holds in memory, half of them of one client; "
        "requests beyond are rejected",
    )
    body_timeout_s: float = Field(30, gt=0, description="seconds that a request's body may take to arrive")
    version_timeout_s: float = Field(5, gt=0, description="seconds that a search waits for its `min_version`")
    shard_timeout_s: float = Field(
        2, gt=0, description="seconds that a search waits for a shard before its response is partial"
    )
    predict_timeout_s: float = Field(30, gt=0, description="seconds that a model may take for a query")
    video_timeout_s: float = Field(
        120, gt=0, description="seconds that a video may take to arrive, and again to be processed"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        moved = [name for name in MOVED_OPTIONS if isinstance(values, dict) and name in values]
        if moved:
            fixes = (f"{option} of {deployment}" for deployment, option in map(MOVED_OPTIONS.__getitem__, moved))
            raise ValueError(
                f"{', '.join(moved)}: no options of the service any more: set {' and '.join(fixes)} under "
                "`deployments:` of a Ray Serve config file ('galleria serve --config FILE' reads it, too)"
            )
        return rename_deprecated(values, OLD_NAMES)

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: Limits) -> Limits:
        # A family decodes under the platform's own limits: only what the gateway checks before can be stricter.
        for name in ("image_bytes", "image_pixels", "video_bytes"):
            if getattr(limits, name) > getattr(LIMITS, name):
                raise ValueError(f"{name} can be lowered, but not raised over {getattr(LIMITS, name):,}")
        for name in ("video_pixels", "video_seconds", "video_frames"):
            if getattr(limits, name) != getattr(LIMITS, name):
                raise ValueError(f"{name} is the platform's own, {getattr(LIMITS, name):,}: leave it out")
        return limits

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: write scheme and host, such as https://shop.example, without a path"
                )
        return origins

    @field_validator("version_retention_days")
    @classmethod
    def _check_retention(cls, days: float) -> float:
        if not days >= 1 / 24:
            raise ValueError(
                f"{days} days is less than an hour, for which replicas read old versions: give 0.05 or more"
            )
        return days

    @model_validator(mode="after")
    def _check_memory(self) -> "ServiceConfig":
        # A client may have half of it, and its body is four thirds as long in base64.
        needed = 3 * max(self.limits.video_bytes, self.limits.batch_bytes)
        if self.max_body_memory_bytes < needed:
            raise ValueError(
                f"max_body_memory_bytes is {self.max_body_memory_bytes:,}: give {needed:,} or more, so that "
                "the largest body that `limits` allow can be sent"
            )
        return self

    @model_validator(mode="after")
    def _check_consistency(self) -> "ServiceConfig":
        if self.releases:
            if self.bundle or self.table or self.index or self.models:
                raise ValueError("releases say what is served: leave bundle, table, index and models out")
            return self
        paths = {"bundle": self.bundle, "table": self.table, "index": self.index}
        missing = [name for name, path in paths.items() if not path]
        if 0 < len(missing) < len(paths):
            raise ValueError(f"bundle, table and index go together: give {' and '.join(missing)} too")
        if missing and self.writable:
            raise ValueError("writable needs a catalogue: give bundle, table and index too")
        if missing and not self.models:
            raise ValueError("there is nothing to serve: give bundle, table and index, or models, or both, or releases")
        if missing and self.shards == "deployed":
            raise ValueError("shards are those of a catalogue: give bundle, table and index too")
        if SEARCH in self.models:
            raise ValueError(f"models: {SEARCH!r} names the model of `bundle`: choose another name")
        return self
