"""Reads COCO's annotations of objects: a row for each box."""

from collections.abc import Iterator, Mapping
from typing import Any

from galleria.errors import DataError
from galleria.learn.task import Row
from galleria.pipelines.readers.crops import crop


def is_coco(document: Any) -> bool:
    """Return whether a JSON document is one of COCO's."""
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def read_coco(document: Mapping[str, Any], inside: str, images: str, split: str | None) -> Iterator[Row]:
    """Yield a row for each annotation that has a box and is not of a crowd.

    Args:
        document: `{"images": […], "annotations": […], "categories": […]}`; boxes are `[x, y, width, height]` in pixels.
        inside: name of the document.
        images: folder of the pictures.
        split: of all rows, or None.

    Raises:
        DataError: a field is missing.
    """
    try:
        names = {image["id"]: image["file_name"] for image in document["images"]}
        categories = {
            kind["id"]: [str(kind[level]) for level in ("supercategory", "name") if level in kind]
            for kind in document["categories"]
        }
        for number, annotation in enumerate(document["annotations"]):
            if annotation.get("iscrowd") or not annotation.get("bbox"):
                continue
            x, y, width, height = (float(value) for value in annotation["bbox"])
            identifier = str(annotation.get("id", number))
            yield {
                "id": identifier,
                "image": f"{images}/{names[annotation['image_id']]}",
                "crop": crop([x, y, x + width, y + height]),
                "product_id": identifier,
                "category": categories[annotation["category_id"]],
                "split": split,
            }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{inside} is not a COCO annotation file ({type(error).__name__}: {error}): restore it"
        ) from error
