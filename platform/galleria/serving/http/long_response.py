"""JSON responses with a long list, built element by element: other threads run between two of them."""

from collections.abc import Iterable

from fastapi.responses import Response
from pydantic import BaseModel

from galleria.serving.http.body import BodyReader

LONG_LIST = 32
"""Elements of a list from which on a response is built in a thread."""


async def respond(bodies: BodyReader, outline: BaseModel, field: str, elements: Iterable[BaseModel]) -> Response:
    """Return the response that `outline` describes, in a thread for bodies.

    Args:
        bodies: has the threads.
        outline: the response with an empty list, which is its first field that is a list.
        field: name of the list.
        elements: of the list; an iterator's are made in the thread too.
    """
    return Response(await bodies.in_thread(_dump, outline, field, elements), media_type="application/json")


def _dump(outline: BaseModel, field: str, elements: Iterable[BaseModel]) -> bytes:
    before, empty, after = outline.model_dump_json().encode().partition(f'"{field}":[]'.encode())
    assert empty, f"{field} is a list"
    content = b",".join(element.model_dump_json().encode() for element in elements)
    return b"".join((before, empty[:-1], content, b"]", after))
