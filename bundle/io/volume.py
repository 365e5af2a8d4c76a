"""The project's one convention for a volume: array (z, y, x), lengths in µm, origin at the centre of voxel 0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bundle.errors import InputError

_UM = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_UNIT_NAMES = {"micron": "um", "micrometer": "um", "micrometre": "um", "nanometer": "nm", "nanometre": "nm",
               "millimeter": "mm", "millimetre": "mm", "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m"}  # fmt: skip


def micrometres(unit: str | None) -> float | None:
    """Length of a unit in µm; None for a unit that is no length (`pixel`) or is not known."""
    # ImageJ writes the micro sign as the text \u00B5; there are two of them in Unicode.
    name = str(unit or "").strip().lower().replace("\\u00b5", "u").replace("\u00b5", "u").replace("\u03bc", "u")
    name = _UNIT_NAMES.get(name.removesuffix("s"), name)
    return _UM.get(name)


def significant(value: float) -> float:
    """Round to 7 significant digits: what single precision and TIFF's rational numbers carry (5.34500026 -> 5.345)."""
    return float(f"{value:.7g}")


def size_text(voxel_size: Sequence[float]) -> str:
    """A voxel size as text, one number where it is the same along all axes."""
    return " x ".join(f"{size:g}" for size in (voxel_size[:1] if len(set(voxel_size)) == 1 else voxel_size))


def are_cubes(voxel_size: Sequence[float]) -> bool:
    """Whether the edges of a voxel are alike to within 1 %."""
    return all(math.isclose(size, voxel_size[0], rel_tol=0.01) for size in voxel_size)


def cube_edge(voxel_size: float | Sequence[float], what: str) -> float:
    """Edge of voxels (z, y, x) that are cubes.

    Args:
        voxel_size: µm.
        what: needs cubes, for the message.

    Raises:
        InputError: they are not.
    """
    sizes = as_voxel_size(voxel_size)
    if not are_cubes(sizes):
        raise InputError(f"voxels of {size_text(sizes)} µm: {what} needs cubes; resample the volume, or leave it out")
    return sizes[0]


def as_voxel_size(value: float | Sequence[float], name: str = "voxel_size", n_axes: int = 3) -> tuple[float, ...]:
    """Voxel size (z, y, x) in µm from one number or three; of an image (`n_axes` 2) the pixel size (y, x) from one or two.

    Raises:
        InputError: `value` is not one positive finite number, nor one an axis.
    """
    try:
        sizes = tuple(float(v) for v in np.broadcast_to(np.asarray(value, dtype=float), (n_axes,)))
    except (TypeError, ValueError):
        sizes = (math.nan,)
    if not all(math.isfinite(v) and v > 0 for v in sizes) or np.asarray(value).dtype == bool:  # true: a value was forgotten
        each = "three [z, y, x]" if n_axes == 3 else "two [y, x]"
        raise InputError(f"{name}: {value} is not a voxel size; give a positive number in µm, or {each}")
    return sizes


@dataclass
class Volume:
    """A volume and where it lies.

    Attributes:
        array: values (z, y, x).
        voxel_size: µm (z, y, x); None where nobody said.
        origin: centre of voxel 0 in µm (z, y, x), along each axis in the direction in which its voxels are counted.
        signs: of the axes (z, y, x): 1 where the voxels are counted towards superior, anterior and right, the world of NIfTI, -1 where away from it;
            None where nobody said.
    """

    array: np.ndarray
    voxel_size: tuple[float, float, float] | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    signs: tuple[int, int, int] | None = None

    @property
    def affine(self) -> np.ndarray:
        """4x4 matrix in array order: index (z, y, x) -> µm (z, y, x); an unknown voxel size counts as 1."""
        affine = np.diag([*(self.voxel_size or (1.0, 1.0, 1.0)), 1.0])
        affine[:3, 3] = self.origin
        return affine

    @classmethod
    def from_affine(cls, array: np.ndarray, affine: np.ndarray) -> "Volume":
        """The inverse of `affine`.

        Raises:
            InputError: the affine rotates, mirrors or shears.
        """
        affine = np.asarray(affine, dtype=float)
        size = np.diag(affine)[:3]
        if affine.shape != (4, 4) or not np.allclose(affine[:3, :3], np.diag(size), atol=1e-6 * np.abs(size).max()) or (size <= 0).any():
            raise InputError("the volume was rotated, mirrored or sheared; only upright volumes are written: leave such transforms out")
        return cls(array, tuple(size.tolist()), tuple(affine[:3, 3].tolist()))


def super_resolved_affine(affine: np.ndarray, scale: int) -> np.ndarray:
    """Affine of the grid that is `scale` times finer and covers the same box.

    A' = A diag(1/s), with the origin, a voxel's centre, moved by (1/s - 1)/2 coarse voxels along each axis.

    Args:
        affine: 4x4, of the coarse grid, in any axis order.
        scale: fine voxels a coarse voxel, along each axis.
    """
    finer = np.diag([1 / scale] * 3 + [1.0])
    finer[:3, 3] = (1 / scale - 1) / 2
    return np.asarray(affine, dtype=float) @ finer


def upright(directions: np.ndarray, origin: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...] | None]:
    """Voxel size and origin of an image whose axes may run backward or be turned, all in the file's own axis order.

    The voxels stay in the order in which the file holds them: an axis that runs backward (usual between ITK and NIfTI) is counted forward, its
    coordinates negated, and its sign is kept for what is written. A turned image loses its place in space.

    Args:
        directions: 3x3; column k is the step from one voxel to the next along axis k.
        origin: coordinates of voxel 0.

    Returns:
        voxel size, origin, and the sign of each axis; None where the image is turned, and its direction and origin were lost.
    """
    size = np.linalg.norm(directions, axis=0)
    signed = np.diag(directions)
    if not np.allclose(directions, np.diag(signed), atol=1e-4 * size.max()):
        return tuple(significant(v) for v in size), (0.0, 0.0, 0.0), None
    signs = tuple(-1 if step < 0 else 1 for step in signed)
    return tuple(significant(v) for v in size), tuple(significant(v * sign + 0.0) for v, sign in zip(origin, signs)), signs
