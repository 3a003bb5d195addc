"""Renders the templates of this package to pages that need no other file."""

from typing import Any

import jinja2


def render(name: str, **values: Any) -> str:
    """Render a template; values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("galleria", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name).render(values)
