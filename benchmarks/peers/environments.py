"""Environments of other libraries, installed on demand, each apart from ours and from the others."""

import subprocess
import sys
from pathlib import Path

HOME = Path("runs/benchmarks/peers")


def python_of(name: str) -> str:
    """The interpreter of an environment."""
    return str((HOME / name / "bin" / "python").absolute())


def install(name: str, wanted: tuple[str, ...], shared: bool = False) -> str:
    """Make the environment `name` with what is wanted, unless it is there; its interpreter.

    Args:
        name: of the environment.
        wanted: requirements as pip takes them.
        shared: whether it also sees what is installed here, behind its own.
    """
    place = HOME / name
    done = place / ".done"
    if not done.exists() or done.read_text() != "\n".join(wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True, stdout=sys.stderr)
        if shared:
            [packages] = place.glob("lib/python*/site-packages")
            here = [path for path in sys.path if path.endswith("site-packages")]
            lines = [f"import site; site.addsitedir({path!r})\n" for path in here]  # with what is installed by .pth
            (packages / "shared.pth").write_text("".join(lines))
        command = [python_of(name), "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text("\n".join(wanted))
    return python_of(name)
