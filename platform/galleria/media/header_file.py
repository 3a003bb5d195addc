"""A file in memory whose header costs a bounded time to read."""

import io

MAX_READS = 20_000
"""Of a header: those of cameras take some hundred. Empty segments, four bytes each, would cost minutes."""


class HeaderFile(io.BytesIO):
    """Bytes that can be read `MAX_READS` times, until `opened` says that the header is read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises ValueError: the header has too many segments."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise ValueError(f"its header has more than {MAX_READS:,} parts")
        return super().read(size)

    def opened(self) -> None:
        """Let the rest be read in any number of parts."""
        self._reads = -(1 << 62)
