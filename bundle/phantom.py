"""Synthetic rock whose truth is known: the sample that the bundle ships, the validation lab, and test data of any size.

Every label is a function of (seed, position in µm) alone, so a volume can be made block by block and a section is the same rock as the volume it
cuts; grains of which a block sees hardly anything are left out, which changes a voxel in some thousands. Four phases; their names depend on the rock. Lengths in µm, axis order (z, y, x). `bundle.microct` scans it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import starmap

import numpy as np

from bundle.errors import InputError

PORE, HOST, SECOND, CLAY = range(4)  # of the Berea: pore, quartz, feldspar, clay
VOXEL = 0.4375  # µm, the fine grid
FACTOR = 8  # fine voxels per coarse voxel along an axis
BLOCK = 64  # fine voxels a side made at once
MARGIN = 110.0  # µm of rock around the region, so that no grain feels its edge
REACH = 21.0  # radii of the edges within which a grain rounds those of others: what is farther counts less than a thousandth
LATTICE = 96  # nodes a side of the periodic noise lattices


@dataclass(frozen=True)
class Rock:
    """What a phantom is made of; the defaults were tuned to the fractions and areas of images of Berea sandstone (docs/experiments.md).

    Args:
        phases: names of the labels.
        shares: of the grains' volume: dissolved altogether, host mineral, second mineral.
        radius: smallest, most frequent and largest of the spheres whose power cells are the grains, µm.
        elongation: grains are so many times longer along (z, y, x).
        rounding: radius of the grains' edges, µm.
        roughness: amplitudes of what bends the surfaces in waves of some 70, 20 and 4 µm, µm.
        merged, welded: share of the contacts where two grains became one, and where they touch; the others are open.
        cement: depth of the cement at merged and at welded contacts, µm (negative: the pore starts so far inside).
        gape: width of the widest open contact, µm.
        pore_depth: what is less deep inside a grain's rounded body is pore, µm.
        layer: period along z, µm, and strength, µm: in one half of the period the pores are wider, in the other narrower. Strength 0: none.
        decay: how far a grain of the second mineral is dissolved along its cleavage: hardly, in part, mostly.
        patches: clay fills where a smooth noise (variance 1) exceeds these, in pores and in dissolved grains.
        sponge: solid part of the clay: where noise of 1 to 4 µm exceeds it.
        pits: host grains have micro-pores where a clustered noise exceeds it.
    """

    phases: tuple[str, str, str, str] = ("pore", "quartz", "feldspar", "clay")
    shares: tuple[float, float, float] = (0.08, 0.78, 0.14)
    radius: tuple[float, float, float] = (22.0, 35.0, 62.0)
    elongation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rounding: float = 7.0
    roughness: tuple[float, float, float] = (7.0, 1.3, 0.3)
    merged: float = 0.22
    welded: float = 0.5
    cement: tuple[float, float] = (-22.0, -3.6)
    gape: float = 4.5
    pore_depth: float = -0.4
    layer: tuple[float, float] = (120.0, 0.0)
    decay: tuple[float, float, float] = (-1.0, 0.0, 0.4)
    patches: tuple[float, float] = (0.78, 0.7)
    sponge: float = 0.15
    pits: float = 4.7


ROCKS = {
    "berea": Rock(),
    "layered": Rock(elongation=(0.6, 1.0, 1.0), layer=(110.0, 2.5)),
    "tight": Rock(shares=(0.01, 0.81, 0.18), merged=0.45, welded=0.45, gape=3.0, pore_depth=-2.2, patches=(0.2, -0.3), pits=4.2),
    "carbonate": Rock(
        phases=("pore", "calcite", "dolomite", "micrite"),
        shares=(0.14, 0.72, 0.14),
        radius=(30.0, 48.0, 70.0),
        rounding=12.0,
        roughness=(2.5, 0.6, 0.3),
        decay=(-4.0, -4.0, -4.0),
        patches=(0.35, 0.1),
        sponge=-0.1,
        pits=3.6,
    ),
}


def rock(name: str) -> Rock:
    """A preset of `ROCKS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in ROCKS:
        raise InputError(f"rock: {name} is not known; choose one of {', '.join(ROCKS)}")
    return ROCKS[name]


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
    """One realisation of a rock.

    Grains are the power cells of a random packing of spheres. Where several cells meet they are rounded off, which opens the pores;
    contacts between two cells are merged, welded (some cracked) or open. The second mineral is dissolved along its cleavage, and patches
    of the pore space hold clay, a sponge at this resolution.

    Args:
        seed: of everything.
        size: edge of the cube in which the rock exists, µm, or (z, y, x); its first corner is the position 0.
        rock: what it is made of.
    """

    def __init__(self, seed: int, size: float | tuple[float, float, float], rock: Rock = ROCKS["berea"]) -> None:
        self.seed, self.rock = seed, rock
        rng = np.random.default_rng((seed, 0))
        self.stretch = np.asarray(rock.elongation, dtype=float)
        span = np.broadcast_to(size, 3) / self.stretch  # grains are round where positions are divided by the elongation
        self.centre, self.radius = _pack(rng, span, rock.radius)
        n = len(self.radius)
        self.kind = _assign(rng, self.centre - span / 2, self.radius, rock.shares)
        upper = np.triu(rng.random((n, n)), 1)
        contact = upper + upper.T  # one number a pair of grains
        touching = rock.merged + rock.welded
        openness = rock.gape * (contact - touching) / (1 - touching)
        merged = (contact < rock.merged) & (self.kind[:, None] == self.kind)  # only grains of one mineral grow together
        self.gap = np.select([merged, contact < touching], rock.cement, openness).astype(np.float32)  # µm
        self.cracked = (contact > 0.7 * rock.merged) & (contact < rock.merged + 0.65 * rock.welded)
        cleavage = rng.standard_normal((n, 3))
        self.cleavage = (cleavage / np.linalg.norm(cleavage, axis=1, keepdims=True)).astype(np.float32)
        self.decay = rng.choice(rock.decay, n)
        self.bedding = 2 * np.pi * rng.random()  # phase of the layers: images normal to them show other heights

    def labels(self, origin: tuple[float, float, float], shape: tuple[int, int, int], voxel: float = VOXEL) -> np.ndarray:
        """Labels of a small block (memory: some 40 float32 copies of it).

        Args:
            origin: centre of the first voxel, µm (z, y, x).
            shape: voxels (z, y, x).
            voxel: voxel size, µm.

        Returns:
            uint8 array of `shape`, values 0 to 3.
        """
        rock, corner = self.rock, np.asarray(origin, dtype=float)

        def noise(channel: int, length: float) -> np.ndarray:
            return smooth_noise((self.seed, channel), corner, shape, voxel, length)

        axes = np.meshgrid(*(corner[a] + voxel * np.arange(shape[a]) for a in range(3)), indexing="ij", sparse=True)
        # Bending space makes the cells irregular: waves of some 70 and 20 µm and a roughness of a few µm.
        wave, ripple, grit = rock.roughness
        bend = [wave * noise(1 + a, 34.0) + ripple * noise(20 + a, 9.0) + grit * noise(4 + a, 2.2) for a in range(3)]
        position = np.stack([((axes[a] + bend[a]) / self.stretch[a]).astype(np.float32) for a in range(3)])
        owner, depth, contact, partner = self._cells(position)
        kind = self.kind[owner]

        period, strength = rock.layer
        threshold = rock.pore_depth + strength * np.sin(2 * np.pi * (axes[0] + bend[0]) / period + self.bedding) if strength else rock.pore_depth
        open_space = (depth < 3.2 * noise(7, 14.0) + threshold) | (kind == PORE)
        crack = self.cracked[owner, partner] & (contact < 0.05 + 0.35 * noise(8, 6.0) + 0.15 * noise(9, 0.9))
        fine = noise(10, 0.8)
        specks = noise(11, 1.6) + 1.3 * noise(12, 11.0) > rock.pits  # the host is sound but for clusters of pits
        sheet = np.einsum("azyx,zyxa->zyx", position, self.cleavage[owner])
        slots = np.sin(2 * np.pi * sheet / 7.0 + 2.4 * noise(13, 5.0)) + 0.8 * noise(14, 1.8) + 0.3 * fine
        rotten = self.decay[owner] + noise(15, 9.0)
        dissolved = (kind == SECOND) & (slots > 1.9 - 1.3 * rotten)

        labels = kind.copy()
        labels[open_space | dissolved | crack | ((kind == HOST) & specks)] = PORE
        patch = noise(16, 13.0)
        sponge = 0.55 * fine + noise(17, 1.3) + 0.8 * noise(18, 3.5) > rock.sponge
        room = (open_space & (patch > rock.patches[0])) | (dissolved & (patch > rock.patches[1]))
        labels[room & sponge] = CLAY
        return labels

    def _cells(self, position: np.ndarray) -> tuple[np.ndarray, ...]:
        """Owner grain, signed depth inside its rounded body, distance to the nearest contact and the grain behind it.

        Args:
            position: (3, z, y, x), µm, divided by the elongation.

        Returns:
            owner (z, y, x) int; depth (z, y, x) µm, a soft minimum over the faces (log-sum-exp), each moved by its gap;
            contact (z, y, x) µm; partner (z, y, x) int.
        """
        rounding = self.rock.rounding
        flat = position.reshape(3, -1)
        middle = (flat.min(1) + flat.max(1)) / 2
        reach = np.linalg.norm(flat.max(1) - flat.min(1)) / 2
        away = np.linalg.norm(self.centre - middle, axis=1)
        near = np.flatnonzero(away < reach + max(2.4 * self.rock.radius[2], REACH * rounding))
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
                total += np.exp(-(face - self.gap[a, b]) / rounding)
                closer = face < contact[here]
                contact[here[closer]] = face[closer]
                partner[here[closer]] = b
            depth[here] = -rounding * np.log(np.maximum(total, 1e-30))
        shape = position.shape[1:]
        return near[mine].reshape(shape), depth.reshape(shape), contact.reshape(shape), partner.reshape(shape)

    def blocks(
        self, shape: tuple[int, int, int], block: int = BLOCK, start: tuple[float, float, float] = (0.0, 0.0, 0.0), workers: int = 1
    ) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
        """The fine volume of `shape` voxels, one block of at most `block` voxels a side after the other, with its place.

        Args:
            shape: voxels (z, y, x).
            block: voxels a side of the largest block.
            start: corner of the volume, µm (z, y, x).
            workers: processes that make the blocks; their order stays.
        """
        places = [
            tuple(slice(i * block, min((i + 1) * block, n)) for i, n in zip(index, shape))
            for index in np.ndindex(*(-(-n // block) for n in shape))
        ]
        tasks = [
            (tuple(corner + VOXEL * (p.start + 0.5) for corner, p in zip(start, place)), tuple(p.stop - p.start for p in place))
            for place in places
        ]
        if workers == 1:
            yield from zip(places, starmap(self.labels, tasks))
            return
        with ProcessPoolExecutor(workers) as pool:
            for begin in range(0, len(tasks), 8 * workers):  # some at a time: finished blocks wait in memory
                part = slice(begin, begin + 8 * workers)
                yield from zip(places[part], pool.map(self.labels, *zip(*tasks[part])))


def _pack(rng: np.random.Generator, span: np.ndarray, radius: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Random sequential packing of overlapping spheres, the largest first: centres (n, 3) and radii (n,), float32, µm."""
    mean_volume = 4 / 3 * np.pi * (0.864 * (radius[0] + radius[2]) / 2) ** 3
    radii = np.sort(rng.triangular(*radius, int(np.prod(span + 2 * MARGIN) / mean_volume)))[::-1]
    centres, kept = np.empty((len(radii), 3)), np.empty(len(radii))
    n = 0
    for r in radii:
        for point in rng.uniform(-MARGIN, span + MARGIN, (60, 3)):
            if np.all(((centres[:n] - point) ** 2).sum(1) > (0.88 * (kept[:n] + r)) ** 2):
                centres[n], kept[n] = point, r
                n += 1
                break
    return centres[:n].astype(np.float32), kept[:n].astype(np.float32)


def _assign(rng: np.random.Generator, centre: np.ndarray, radius: np.ndarray, shares: tuple[float, float, float]) -> np.ndarray:
    """A phase for every grain so that the shares hold in any cube about the middle: error diffusion from the middle outwards."""
    kind, owed = np.empty(len(radius), np.uint8), np.zeros(len(shares))
    for i in np.argsort(np.abs(centre).max(1)):
        volume = radius[i] ** 3
        owed += np.multiply(shares, volume)
        # Whom the most is owed comes next; the random term keeps the order of the phases from repeating.
        kind[i] = np.argmax(owed + 0.25 * volume * rng.standard_normal(len(shares)))
        owed[kind[i]] -= volume
    return kind


def section(phantom: Phantom, size: int, axis: int = 0, depth: float = VOXEL / 2) -> np.ndarray:
    """A fine image normal to `axis`, `depth` µm into the rock: uint8 labels (size, size) of 0.4375 µm."""
    shape, start = [size] * 3, [0.0] * 3
    shape[axis], start[axis] = 1, depth - VOXEL / 2
    image = np.empty(shape, np.uint8)
    for place, labels in phantom.blocks(tuple(shape), start=tuple(start)):
        image[place] = labels
    return image.squeeze(axis)


def sections(seed: int, count: int = 4, size: int = 512, rock: Rock = ROCKS["berea"], axis: int = 0) -> np.ndarray:
    """Fine images: uint8 labels (count, size, size) of 0.4375 µm, each the middle section of a realisation of its own."""
    extent = [VOXEL * size] * 3
    extent[axis] = VOXEL
    return np.stack([section(Phantom(seed + 1 + i, tuple(extent), rock), size, axis) for i in range(count)])
