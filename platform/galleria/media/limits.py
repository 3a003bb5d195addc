"""Limits on the size of uploads and rows, checked before they are decoded."""

from pydantic import BaseModel, ConfigDict, Field

MAX_CHARACTER_BYTES = 4
"""Of a character in UTF-8."""


class Limits(BaseModel):
    """Bounds on what is decoded; shown at `GET /v1/limits`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_bytes: int = Field(50_000_000, gt=0, description="encoded size of one picture, in bytes")
    image_pixels: int = Field(50_000_000, gt=0, description="width × height of one picture, in pixels")
    video_bytes: int = Field(100_000_000, gt=0, description="encoded size of one uploaded video, in bytes")
    video_pixels: int = Field(9_437_184, gt=0, description="width × height of one frame, in pixels")
    video_seconds: float = Field(7_200, gt=0, description="length of one video, in seconds")
    video_frames: int = Field(1_000_000, gt=0, description="frames of one video, and samples of its sound too")
    text_characters: int = Field(2_000, gt=0, description="length of one text query, in characters")
    results: int = Field(1_000, gt=0, description="largest k of one search")
    batch_items: int = Field(1_000, gt=0, description="items that one request may write")
    embedding_inputs: int = Field(2_048, gt=0, description="texts and pictures of one request for embeddings")
    item_attributes: int = Field(64, gt=0, description="attributes of one item")
    catalog_attributes: int = Field(
        1_000, gt=0, description="different names that the attributes of all items of a catalogue have"
    )
    batch_bytes: int = Field(
        64_000_000,
        gt=0,
        description="encoded size of all pictures sent in it, and of all that it names by URI, in bytes",
    )
    json_values: int = Field(
        131_072, gt=0, description="numbers, texts, lists, objects and names of fields in the JSON of one query or item"
    )
    batch_json_values: int = Field(2_000_000, gt=0, description="the same in one request with several")

    def text_bytes(self, texts: int) -> int:
        """Return the size in UTF-8 of so many texts of one request."""
        return min(self.batch_bytes, texts * self.text_characters * MAX_CHARACTER_BYTES)


LIMITS = Limits()
