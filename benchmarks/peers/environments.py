"""Virtual environments of other libraries, installed on demand, one for each."""

import subprocess
import sys
from pathlib import Path

PEERS_FOLDER = Path("runs/benchmarks/peers")


def python_of(name: str) -> str:
    """Return the path of an environment's interpreter."""
    return str((PEERS_FOLDER / name / "bin" / "python").absolute())


def install(name: str, requirements: tuple[str, ...], shared: bool = False) -> str:
    """Create an environment unless it exists; return its interpreter.

    Args:
        name: of the environment.
        requirements: as pip reads them.
        shared: whether it also sees the packages of this environment, after its own.
    """
    folder = PEERS_FOLDER / name
    marker = folder / ".done"
    if not marker.exists() or marker.read_text() != "\n".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, stdout=sys.stderr)
        if shared:
            [packages] = folder.glob("lib/python*/site-packages")
            own = [path for path in sys.path if path.endswith("site-packages")]
            lines = [f"import site; site.addsitedir({path!r})\n" for path in own]  # reads .pth files, too
            (packages / "shared.pth").write_text("".join(lines))
        command = [python_of(name), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True, stdout=sys.stderr)
        marker.write_text("\n".join(requirements))
    return python_of(name)
