"""A synthetic Berea-like sandstone: the sample that the bundle ships, and test data of any size.

Every label is a function of (seed, position in µm) alone, so a volume can be made block by block and a section is the same rock as the
volume it cuts. Phases: 0 pore, 1 quartz, 2 feldspar, 3 clay. Lengths in µm, axis order (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

PHASES = ("pore", "quartz", "feldspar", "clay")
PORE, QUARTZ, FELDSPAR, CLAY = range(4)
VOXEL = 0.4375  # µm, the fine grid
FACTOR = 8  # fine voxels per coarse voxel along an axis
BLOCK = 64  # fine voxels a side made at once

RADIUS = (22.0, 62.0)  # µm, of the spheres whose power cells are the grains: diameters of some 60 to 150 µm
MARGIN = 110.0  # µm of rock around the region, so that no grain feels its edge
SHARE = {PORE: 0.09, QUARTZ: 0.765, FELDSPAR: 0.145}  # of the cells' volume; a pore cell is a grain that dissolved altogether
MERGE, WELD = -22.0, -5.0  # µm: depth of the cement where two grains became one, and where they only touch
ROUNDING = 7.0  # µm, radius of the grains' edges
LATTICE = 96  # nodes a side of the periodic noise lattices


@lru_cache(maxsize=32)  # 3.5 MB each; every block of a volume asks for the same
def _lattice(seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((LATTICE,) * 3, dtype=np.float32)


def smooth_noise(seed: tuple[int, ...], origin: np.ndarray, shape: tuple[int, ...], voxel: float, length: float) -> np.ndarray:
    """Smooth Gaussian noise, mean 0 and variance 1, that depends only on the seed and the position.

    A cubic B-spline (de Boor, 1978) through white noise on a periodic lattice of pitch `length`; separable, so it costs four
    multiply-adds a voxel.

    Args:
        seed: seeds of the lattice.
        origin: centre of the first voxel, µm (z, y, x).
        shape: voxels (z, y, x).
        voxel: voxel size, µm.
        length: pitch of the lattice, µm; features are about twice as long.

    Returns:
        float32 array of `shape`.
    """
    noise = _lattice(seed)
    for axis in range(3):
        position = (origin[axis] + voxel * np.arange(shape[axis])) / length
        node = np.floor(position).astype(int)
        t = position - node
        taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        form = tuple(-1 if a == axis else 1 for a in range(3))
        # Divided by its own norm: a plain B-spline has less variance between the nodes than on them.
        norm = np.sqrt(sum(w**2 for w in taps))
        noise = sum(noise.take((node + k) % LATTICE, axis) * (w / norm).astype(np.float32).reshape(form) for k, w in enumerate(taps))
    return noise


class Phantom:
    """One realisation of the rock.

    Grains are the power cells of a random packing of spheres. Where several cells meet they are rounded off, which opens the pores;
    contacts between two cells are welded, cracked or open. Feldspar is dissolved along its cleavage, and patches of the pore space
    hold clay, a sponge at this resolution.

    Args:
        seed: of everything.
        size: edge of the cube in which the rock exists, µm; its first corner is the position 0.
    """

    def __init__(self, seed: int, size: float) -> None:
        self.seed = seed
        rng = np.random.default_rng((seed, 0))
        self.centre, self.radius = _pack(rng, size)
        n = len(self.radius)
        self.kind = _assign(rng, self.centre - size / 2, self.radius)
        upper = np.triu(rng.random((n, n)), 1)
        contact = upper + upper.T  # one number a pair of grains
        self.gap = np.select([contact < 0.22, contact < 0.72], [MERGE, WELD], 16.0 * (contact - 0.72)).astype(np.float32)  # µm
        self.cracked = (contact > 0.15) & (contact < 0.55)
        cleavage = rng.standard_normal((n, 3))
        self.cleavage = (cleavage / np.linalg.norm(cleavage, axis=1, keepdims=True)).astype(np.float32)
        self.decay = rng.choice([-0.8, 0.2, 0.7], n)  # how far a feldspar is dissolved: hardly, in part, mostly

    def labels(self, origin: tuple[float, float, float], shape: tuple[int, int, int], voxel: float = VOXEL) -> np.ndarray:
        """Labels of a small block (memory: some 40 float32 copies of it).

        Args:
            origin: centre of the first voxel, µm (z, y, x).
            shape: voxels (z, y, x).
            voxel: voxel size, µm.

        Returns:
            uint8 array of `shape`, values 0 to 3.
        """
        corner = np.asarray(origin, dtype=float)

        def noise(channel: int, length: float) -> np.ndarray:
            return smooth_noise((self.seed, channel), corner, shape, voxel, length)

        axes = np.meshgrid(*(corner[a] + voxel * np.arange(shape[a]) for a in range(3)), indexing="ij", sparse=True)
        # Bending space makes the cells irregular: waves of some 70 and 20 µm and a roughness of a few µm.
        bend = [7.0 * noise(1 + a, 34.0) + 1.3 * noise(20 + a, 9.0) + 0.3 * noise(4 + a, 2.2) for a in range(3)]
        position = np.stack([(axes[a] + bend[a]).astype(np.float32) for a in range(3)])
        owner, depth, contact, partner = self._cells(position)
        kind = self.kind[owner]

        open_space = (depth < 3.2 * noise(7, 14.0) + 0.1) | (kind == PORE)
        crack = self.cracked[owner, partner] & (contact < 0.05 + 0.35 * noise(8, 6.0) + 0.15 * noise(9, 0.9))
        fine = noise(10, 0.8)
        specks = noise(11, 1.6) + 1.3 * noise(12, 11.0) > 4.5  # quartz is sound but for clusters of pits
        sheet = np.einsum("azyx,zyxa->zyx", position, self.cleavage[owner])
        slots = np.sin(2 * np.pi * sheet / 7.0 + 2.4 * noise(13, 5.0)) + 0.8 * noise(14, 1.8) + 0.3 * fine
        rotten = self.decay[owner] + noise(15, 9.0)
        dissolved = (kind == FELDSPAR) & (slots > 1.9 - 1.3 * rotten)

        labels = kind.copy()
        labels[open_space | dissolved | crack | ((kind == QUARTZ) & specks)] = PORE
        patch = noise(16, 13.0)
        sponge = 0.55 * fine + noise(17, 1.3) + 0.8 * noise(18, 3.5) > 0.15
        room = (open_space & (patch > 0.85)) | (dissolved & (patch > 0.1))
        labels[room & sponge] = CLAY
        return labels

    def _cells(self, position: np.ndarray) -> tuple[np.ndarray, ...]:
        """Owner grain, signed depth inside its rounded body, distance to the nearest contact and the grain behind it.

        Args:
            position: (3, z, y, x), µm.

        Returns:
            owner (z, y, x) int; depth (z, y, x) µm, a soft minimum over the faces (log-sum-exp), each moved by its gap;
            contact (z, y, x) µm; partner (z, y, x) int.
        """
        flat = position.reshape(3, -1)
        middle = (flat.min(1) + flat.max(1)) / 2
        reach = np.linalg.norm(flat.max(1) - flat.min(1)) / 2
        away = np.linalg.norm(self.centre - middle, axis=1)
        near = np.flatnonzero(away < reach + 2.4 * RADIUS[1])
        squares = np.stack([((flat - self.centre[i][:, None]) ** 2).sum(0) - self.radius[i] ** 2 for i in near])
        mine = squares.argmin(0)
        depth, contact = np.empty(flat.shape[1], np.float32), np.full(flat.shape[1], np.inf, np.float32)
        partner = np.zeros(flat.shape[1], int)
        for i in np.unique(mine):
            here = np.flatnonzero(mine == i)
            own, total = squares[i, here], np.zeros(len(here), np.float32)
            for j in range(len(near)):
                if j == i:
                    continue
                a, b = near[i], near[j]
                face = (squares[j, here] - own) / (2 * np.linalg.norm(self.centre[a] - self.centre[b]))
                total += np.exp(-(face - self.gap[a, b]) / ROUNDING)
                closer = face < contact[here]
                contact[here[closer]] = face[closer]
                partner[here[closer]] = b
            depth[here] = -ROUNDING * np.log(np.maximum(total, 1e-30))
        shape = position.shape[1:]
        return near[mine].reshape(shape), depth.reshape(shape), contact.reshape(shape), partner.reshape(shape)

    def blocks(self, shape: tuple[int, int, int], block: int = BLOCK) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
        """The fine volume of `shape` voxels, one block of at most `block` voxels a side after the other, with its place."""
        for start in np.ndindex(*(-(-n // block) for n in shape)):
            place = tuple(slice(s * block, min((s + 1) * block, n)) for s, n in zip(start, shape))
            origin = tuple(VOXEL * (p.start + 0.5) for p in place)
            yield place, self.labels(origin, tuple(p.stop - p.start for p in place))


def _pack(rng: np.random.Generator, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Random sequential packing of overlapping spheres, the largest first: centres (n, 3) and radii (n,), float32, µm."""
    span = size + 2 * MARGIN
    mean_volume = 4 / 3 * np.pi * (0.72 * np.mean(RADIUS) * 1.2) ** 3
    radii = np.sort(rng.triangular(RADIUS[0], 35.0, RADIUS[1], int(span**3 / mean_volume)))[::-1]
    centres, kept = np.empty((0, 3)), np.empty(0)
    for radius in radii:
        for point in rng.uniform(-MARGIN, size + MARGIN, (60, 3)):
            if np.all(np.linalg.norm(centres - point, axis=1) > 0.88 * (kept + radius)):
                centres, kept = np.vstack([centres, point]), np.append(kept, radius)
                break
    return centres.astype(np.float32), kept.astype(np.float32)


def _assign(rng: np.random.Generator, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """A phase for every grain so that the shares hold in any cube about the middle: error diffusion from the middle outwards."""
    kind, owed = np.empty(len(radius), np.uint8), {phase: 0.0 for phase in SHARE}
    for i in np.argsort(np.abs(centre).max(1)):
        volume = radius[i] ** 3
        for phase, share in SHARE.items():
            owed[phase] += share * volume
        # Whom the most is owed comes next; the random term keeps the order of the phases from repeating.
        kind[i] = max(owed, key=lambda phase: owed[phase] + 0.25 * volume * rng.standard_normal())
        owed[int(kind[i])] -= volume
    return kind


def segment(fractions: np.ndarray, seed: int, origin: tuple[float, float, float]) -> np.ndarray:
    """Coarse labels as a segmented micro-CT scan gives them: a majority vote with the errors of the real scan.

    Most feldspar passes for quartz (their X-ray attenuation is close), microporous clay passes for solid clay, and the blurred edge of
    a pore passes for clay or feldspar here and there, so clay comes out about twice too frequent.

    Args:
        fractions: (4, z, y, x), share of each phase in every coarse voxel.
        seed: of the errors.
        origin: centre of the first coarse voxel, µm (z, y, x).

    Returns:
        uint8 array (z, y, x).
    """
    shape, voxel = fractions.shape[1:], VOXEL * FACTOR
    for axis in (1, 2, 3):  # the scanner's blur, about one coarse voxel
        wide = np.pad(fractions, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
        low, mid, high = (wide.take(range(k, k + shape[axis - 1]), axis) for k in range(3))
        fractions = (low + 2 * mid + high) / 4

    def noise(channel: int, length: float) -> np.ndarray:
        return smooth_noise((seed, channel), np.asarray(origin), shape, voxel, length)

    pore, clay = fractions[PORE], fractions[CLAY]
    labels = fractions.argmax(0).astype(np.uint8)
    labels[(clay > 0.24 - 0.05 * noise(30, 7.0)) & (pore < 0.75)] = CLAY
    edge = (pore > 0.22) & (pore < 0.75)
    labels[edge & (noise(31, 9.0) > 1.1)] = CLAY
    labels[edge & (noise(35, 9.0) > 1.8)] = FELDSPAR
    labels[(fractions[FELDSPAR] > 0.4) & (labels != CLAY)] = QUARTZ
    labels[(fractions[FELDSPAR] > 0.4) & (labels != CLAY) & (noise(33, 11.0) + 0.4 * noise(34, 5.0) > 0.65)] = FELDSPAR
    labels[(labels == QUARTZ) & (noise(37, 5.0) > 2.75)] = CLAY
    labels[(labels == QUARTZ) & (noise(38, 5.0) > 3.1)] = PORE
    return labels


def coarse_fractions(phantom: Phantom, shape: tuple[int, int, int]) -> np.ndarray:
    """Share of every phase in the first `shape` coarse voxels: float32 (4, z, y, x). The fine volume is streamed, never held."""
    fractions = np.empty((len(PHASES), *shape), np.float32)
    for place, fine in phantom.blocks(tuple(n * FACTOR for n in shape)):
        coarse = tuple(slice(p.start // FACTOR, p.stop // FACTOR) for p in place)
        cells = fine.reshape([k for c in coarse for k in (c.stop - c.start, FACTOR)])
        for phase in range(len(PHASES)):
            fractions[(phase, *coarse)] = (cells == phase).mean((1, 3, 5))
    return fractions


def low_resolution(seed: int, size: int = 64) -> np.ndarray:
    """The coarse scan: uint8 labels (size, size, size) of 3.5 µm."""
    fractions = coarse_fractions(Phantom(seed, VOXEL * FACTOR * size), (size,) * 3)
    return segment(fractions, seed, (VOXEL * FACTOR / 2,) * 3)


def sections(seed: int, count: int = 4, size: int = 512) -> np.ndarray:
    """Fine images: uint8 labels (count, size, size) of 0.4375 µm, each the middle section of a realisation of its own."""
    images = np.empty((count, size, size), np.uint8)
    for i in range(count):
        phantom = Phantom(seed + 1 + i, VOXEL * size)
        images[i] = phantom.labels((VOXEL * size / 2, VOXEL / 2, VOXEL / 2), (1, size, size))[0]
    return images
