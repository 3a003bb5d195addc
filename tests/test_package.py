"""The package: its public names, version and types, and what importing it costs."""

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import galleria
from galleria import errors

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "lance", "PIL", "timm", "transformers", "faiss", "numpy", "pyarrow", "pydantic", "fastapi")


def python(script: str, folder: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_platform_folder_hides_no_module():
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert python("import platform; print(platform.system() != '', platform.__file__)") == (
        f"True {Path(inspect.__file__).parent / 'platform.py'}"
    )


@pytest.mark.parametrize("name", galleria.__all__)
def test_public_name_is_of_its_module(name):
    module = importlib.import_module(f"galleria.{galleria._MODULES[name]}")

    assert getattr(galleria, name) is getattr(module, name)
    assert getattr(galleria, name).__module__ == module.__name__


def test_public_names_have_modules():
    assert sorted(galleria.__all__) == sorted(galleria._MODULES)
    assert galleria.__all__ == sorted(galleria.__all__)


def test_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="'galleria' has no attribute 'Bundel'"):
        galleria.Bundel  # noqa: B018


def test_import_is_cheap():
    script = (
        "import sys, threading; import galleria, galleria.errors; "
        f"print([name for name in {HEAVY} if name in sys.modules], threading.active_count())"
    )

    assert python(script) == "[] 1"


def test_version_is_that_of_the_metadata():
    assert galleria.__version__ == importlib.metadata.version("galleria")


def test_version_is_known_where_only_the_sources_are(tmp_path):
    """A submitted job has the package's folder on its path, and no metadata."""
    (tmp_path / "galleria").symlink_to(ROOT / "platform" / "galleria")
    script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import galleria; print(galleria.__version__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == galleria.__version__


def test_types_are_in_the_wheel():
    assert (ROOT / "platform" / "galleria" / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["galleria"]


def test_name_loads_its_module_only():
    script = "import sys, galleria; galleria.GalleriaError; print('torch' in sys.modules, 'ray' in sys.modules)"

    assert python(script) == "False False"


def test_core_imports_without_ray(tmp_path):
    modules = ["learn.bundle", "learn.training.loop", "learn.examples", "families.text_guided.recipes", "index.base"]
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
            above = [parent for parent in above if parent[0] < column]
            parents[name] = above[-1][1] if above else "Exception"
            above.append((column, name))
    return parents


def test_error_tree_is_as_documented():
    assert {error.__name__: error.__base__.__name__ for error in public_errors()} == drawn_tree()
    assert drawn_tree()["BrokenMediaError"] == "MediaError"
