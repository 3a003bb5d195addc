"""Reads the pictures that requests name by URI, within bounds on their bytes and on how many are read at a time."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from galleria.errors import MediaTooLargeError, StorageError
from galleria.media.limits import Limits
from galleria.serving.retrieval.image_store import ImageStore, ImageStores
from galleria.serving.schemas.problems import too_many_requests

MAX_CONCURRENT_REQUESTS = 4
"""Requests whose pictures one process reads and holds at a time, each up to `Limits.batch_bytes`."""

MAX_CONCURRENT_READS = 8
"""Pictures that one process reads from a store at a time. In threads of the store: a slow one delays no other."""

READ_TIMEOUT_S = 10.0
"""How long reading one picture may take, before its store counts as not reachable."""

WAIT_TIMEOUT_S = 10.0
"""How long a request waits for others to finish before it is rejected."""

ReadImage = Callable[[str], Awaitable[bytes]]
"""URI → the picture."""


class ImageReader:
    """Reads pictures for all requests of one process.

    Args:
        stores: URIs of the folders that pictures may be read from.
        limits: on a picture, and on all pictures of a request.
        wait_timeout_s: how long a request waits for others to finish.
        read_timeout_s: how long reading one picture may take, in seconds.
    """

    def __init__(
        self,
        stores: Sequence[str],
        limits: Limits,
        wait_timeout_s: float = WAIT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._stores = ImageStores(stores)
        self._limits = limits
        self._wait_timeout_s = wait_timeout_s
        self._read_timeout_s = read_timeout_s
        self._requests = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        self._reads: dict[ImageStore, _Reads] = defaultdict(_Reads)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[ReadImage]:
        """Yield a function that reads one request's pictures; until the block ends, the request may hold them.

        Raises:
            ProblemError: 429, too many other requests hold pictures.
        """
        try:
            async with asyncio.timeout(self._wait_timeout_s):
                await self._requests.acquire()
        except TimeoutError as error:
            raise too_many_requests(
                f"{MAX_CONCURRENT_REQUESTS} requests with an image_uri are being answered"
            ) from error
        budget = ByteBudget(self._limits.batch_bytes)

        async def read(uri: str) -> bytes:
            store = self._stores.store(uri)
            reads = self._reads[store]
            async with reads.limit:
                try:
                    async with asyncio.timeout(self._read_timeout_s):  # its thread may go on for longer
                        return await asyncio.get_running_loop().run_in_executor(
                            reads.threads, store.read, uri, self._limits.image_bytes, budget.take
                        )
                except TimeoutError as error:
                    raise StorageError(
                        f"the store of image_uri {uri[:200]!r} did not respond within {self._read_timeout_s:g} s"
                    ) from error

        try:
            yield read
        finally:
            self._requests.release()


class _Reads:
    """The reads from one store: their threads, and how many go on at a time."""

    def __init__(self) -> None:
        self.limit = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self.threads = ThreadPoolExecutor(MAX_CONCURRENT_READS, "images")


class ByteBudget:
    """Bytes that the pictures of one request may have together. Threads may share it.

    Args:
        max_bytes: of all pictures.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count the bytes of a picture that is about to be read.

        Raises:
            MediaTooLargeError: there are not as many left; none are counted.
        """
        with self._lock:
            if self._taken + size > self._max_bytes:
                raise MediaTooLargeError(
                    f"the pictures that this request names by image_uri have more than {self._max_bytes:,} bytes: "
                    "send the item in another request"
                )
            self._taken += size
