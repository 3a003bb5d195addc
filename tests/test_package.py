"""The package: its public names, and what importing it costs."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import galleria
from galleria import errors

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "lance", "PIL", "timm", "transformers", "faiss", "numpy", "pyarrow", "pydantic", "fastapi")


def python(script: str, folder: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_folder_platform_does_not_hide_the_standard_library():
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert python("import platform; print(platform.system() != '', platform.__file__)") == (
        f"True {Path(inspect.__file__).parent / 'platform.py'}"
    )


@pytest.mark.parametrize("name", galleria.__all__)
def test_a_public_name_is_there_and_is_what_its_home_defines(name):
    home = importlib.import_module(f"galleria.{galleria._HOMES[name]}")

    assert getattr(galleria, name) is getattr(home, name)
    assert getattr(galleria, name).__module__ == home.__name__


def test_every_public_name_has_a_home_and_no_other_has():
    assert sorted(galleria.__all__) == sorted(galleria._HOMES)
    assert galleria.__all__ == sorted(galleria.__all__)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'galleria' has no attribute 'Bundel'"):
        galleria.Bundel  # noqa: B018


def test_importing_the_package_loads_nothing_heavy_and_starts_nothing():
    script = (
        "import sys, threading; import galleria, galleria.errors; "
        f"print([name for name in {HEAVY} if name in sys.modules], threading.active_count())"
    )

    assert python(script) == "[] 1"


def test_the_first_use_of_a_name_loads_its_home_only():
    script = "import sys, galleria; galleria.GalleriaError; print('torch' in sys.modules, 'ray' in sys.modules)"

    assert python(script) == "False False"


def test_the_core_loads_no_ray_and_importing_it_writes_and_prints_nothing(tmp_path):
    modules = ["learn.bundle", "learn.loop", "learn.examples", "families.text_guided.recipes", "index.base"]
    script = "import sys\n" + "".join(
        f"import galleria.{name}\n" for name in [*modules, "catalog.live", "catalog.writer"]
    )

    assert python(script + "print('ray' in sys.modules)", tmp_path) == "False"
    assert list(tmp_path.iterdir()) == []


def public_errors() -> list[type[Exception]]:
    return [value for _, value in inspect.getmembers(errors, inspect.isclass)]


def drawn_tree() -> dict[str, str]:
    """Error → its parent, read from the drawing in the module's docstring."""
    parents = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is not None:
            column = line.index(name)
            above = [place for place in above if place[0] < column]
            parents[name] = above[-1][1] if above else "Exception"
            above.append((column, name))
    return parents


def test_the_errors_are_those_that_the_tree_draws():
    assert {error.__name__: error.__base__.__name__ for error in public_errors()} == drawn_tree()
    assert drawn_tree()["BrokenMediaError"] == "MediaError"
