"""ICC profiles for tests: three primaries and a gamma (ICC.1:2022, version 2 of matrix and curve)."""

import struct

import numpy as np
from numpy.typing import NDArray

XY = dict[str, tuple[float, float]]
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB: XY = {"r": (0.64, 0.33), "g": (0.30, 0.60), "b": (0.15, 0.06)}
DISPLAY_P3: XY = {"r": (0.680, 0.320), "g": (0.265, 0.690), "b": (0.150, 0.060)}
ADOBE: XY = {"r": (0.64, 0.33), "g": (0.21, 0.71), "b": (0.15, 0.06)}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_xyz(primaries: XY) -> NDArray[np.float64]:
    """Return the matrix from linear RGB, whose white is D65, to XYZ relative to D50."""
    columns = np.stack([_xyz(primaries[name]) for name in "rgb"], 1)
    matrix = columns * np.linalg.solve(columns, _xyz(D65))
    cones = np.diag((BRADFORD @ _xyz(D50)) / (BRADFORD @ _xyz(D65)))
    return np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ matrix


def rgb_profile(primaries: XY, gamma: float) -> bytes:
    """Return the profile of an RGB space."""
    columns = to_xyz(primaries).T
    tags = {f"{name}XYZ": _xyz_tag(column) for name, column in zip("rgb", columns, strict=True)}
    return _profile(b"RGB ", tags | {f"{name}TRC": _curve(gamma) for name in "rgb"})


def grey_profile(gamma: float) -> bytes:
    """Return the profile of a grey space."""
    return _profile(b"GRAY", {"kTRC": _curve(gamma)})


def expected_srgb(colour: tuple[int, int, int], primaries: XY, gamma: float) -> list[float]:
    """Return what a colour of the profile's space is in sRGB, 0 to 255 (IEC 61966-2-1)."""
    linear = (np.array(colour) / 255) ** gamma
    linear = np.clip(np.linalg.solve(to_xyz(SRGB), to_xyz(primaries) @ linear), 0, 1)
    return (255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).tolist()


def _xyz(xy: tuple[float, float]) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


def _fixed(values: NDArray[np.float64]) -> bytes:
    return struct.pack(">3i", *(round(value * 65_536) for value in values))


def _xyz_tag(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))


def _profile(space: bytes, tags: dict[str, bytes]) -> bytes:
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = {"desc": description, "cprt": b"text\0\0\0\0none\0\0\0\0", "wtpt": _xyz_tag(_xyz(D50)), **tags}
    offset, table, contents = 132 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        content = tag + bytes(-len(tag) % 4)
        table += name.encode() + struct.pack(">II", offset + len(contents), len(content))
        contents += content
    head = struct.pack(">I4xI", offset + len(contents), 0x02400000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(_xyz(D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + contents
