"""Parts of a response (RFC 9110, section 14): one range of bytes of it."""

import re
from collections.abc import Mapping

from fastapi.responses import Response
from starlette.datastructures import Headers

from galleria.serving.schemas.problems import ProblemError

RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


def ranged_response(request: Headers, content: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    """Return the response with all of `content`, or with the one range of it that a request names.

    Several ranges, or what is not a range, get all of it, as the RFC allows.

    Args:
        request: its headers.
        content: of the full response.
        media_type: of the full response.
        headers: of the full response, with its `etag`.

    Raises:
        ProblemError: 416, the range lies behind the end.
    """
    headers = {**headers, "accept-ranges": "bytes"}
    match = RANGE.fullmatch(request.get("range", ""))
    unchanged = request.get("if-range", headers["etag"]) == headers["etag"]
    first, last = match.groups() if match is not None else ("", "")
    if not (first or last) or not unchanged:
        return Response(content, headers=headers, media_type=media_type)
    start, end = _bounds(first, last, len(content))
    if start >= end:
        raise ProblemError(
            416,
            "range-not-satisfiable",
            f"the range lies outside of the {len(content):,} bytes: leave Range out for all of them",
            headers={"Content-Range": f"bytes */{len(content)}"},
        )
    headers["content-range"] = f"bytes {start}-{end - 1}/{len(content)}"
    return Response(content[start:end], 206, headers, media_type)


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return where a range begins and ends; without a first byte it is that many last ones."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size
