"""One halo's particles into the maps of its views."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.project import fields
from hpcdiff.project.image import Canvas, jit
from hpcdiff.project.lengths import half_extent
from hpcdiff.project.mesh import Mesh
from hpcdiff.project.periodic import images, nearest_image
from hpcdiff.project.smooth import smooth
from hpcdiff.sections import Project

BLOCK = 1 << 16
"""Particles that are rotated at once."""


class Layer:
    """The images of one kind of particles within one depth: one canvas a view, one image a weight.

    Attributes:
        depth: physical Mpc (n_views,).
        fields: that are made from it.
        names, columns: the weights, and where they stand among those that the kind carries.
        canvases: one a view; empty until a particle comes.
    """

    def __init__(self, depth: np.ndarray, carried: list[str], wanted: list[str]) -> None:
        used = {name for field in wanted for name in fields.WEIGHTS_OF[field]}
        self.depth, self.fields = depth, wanted
        self.names = [name for name in carried if name in used]
        self.columns = np.array([carried.index(name) for name in self.names])
        self.canvases: list[Canvas | Mesh] = []


def layers(project: Project, kind: str, rows: dict[str, np.ndarray]) -> list[Layer]:
    """The layers of a kind: fields that share their depth in every view share one."""
    groups: dict[bytes, list[str]] = {}
    for field in fields.FIELDS_OF[kind]:
        if field in project.fields:
            groups.setdefault(fields.depth_of(field, rows).tobytes(), []).append(field)
    carried = fields.carried(project.fields, kind)
    return [Layer(fields.depth_of(wanted[0], rows), carried, wanted) for wanted in groups.values()]


class HaloMaps:
    """The maps of some views of one halo, filled with particles piece by piece; what is kept is the images alone.

    The result depends on the sequence of each kind's particles: not on how it is cut into calls, nor on threads.

    Args:
        project: the config's section.
        background: the snapshot's cosmology.
        redshift: of the snapshot.
        box: comoving Mpc.
        rows: columns of the catalogue of these views, all of one halo.
        threads: of each deposit.
    """

    def __init__(
        self, project: Project, background: Background, redshift: float, box: float, rows: dict[str, np.ndarray], threads: int
    ) -> None:
        self.project, self.background, self.redshift, self.box = project, background, redshift, box
        self.rows, self.threads = rows, threads
        self.margin = fields.margins(rows, project)  # (n_views,)
        self.size = project.npix * project.oversample + 2 * self.margin
        self.width = fields.padded_width(rows, project)
        self.layers = {kind: layers(project, kind, rows) for kind in fields.FIELDS_OF}
        self.rotations: dict[bytes, tuple[np.ndarray, list[int]]] = {}  # each sightline's, with its views
        for view, (frame, axis) in enumerate(zip(rows["frame"], rows["axis"], strict=True)):
            rotation = np.ascontiguousarray(frame[[(2 - axis) % 3, (3 - axis) % 3, (4 - axis) % 3]])  # undo the cyclic order
            self.rotations.setdefault(rotation.tobytes(), (rotation, []))[1].append(view)

    @staticmethod
    def view_bytes(project: Project, rows: dict[str, np.ndarray], particles: dict[str, np.ndarray]) -> np.ndarray:
        """Memory of each view's images at most, float64 (n_views,).

        With k weights of a kind within one depth and n = npix oversample + margins it is 11 k n^2 for the sums of a canvas and
        18 + 4 k for each particle that waits for it, of which there are max(2^18, n^2/2) at most, and half of that while the room
        for them is doubled; or 8 k n^2 for a mesh.

        Args:
            particles: {kind: (n_views,)}, how many each view may get.
        """
        n2 = (project.npix * project.oversample + 2 * fields.margins(rows, project).astype(np.float64)) ** 2
        total = np.zeros(len(n2))
        for kind, count in particles.items():
            for k in (len(layer.names) for layer in layers(project, kind, rows)):
                waiting = 1.5 * np.minimum(2.0 * count, np.maximum(1 << 18, n2 / 2))
                total += 8 * k * n2 if project.method == "mesh" else 11 * k * n2 + (18 + 4 * k) * waiting
        return total

    def add(self, kind: str, table: np.ndarray) -> None:
        """Add particles, which are not kept.

        Args:
            kind: `gas`, `dm`, `star` or `bh`.
            table: float64 (n, 5 + k): index, position (comoving Mpc), support radius (comoving Mpc), and the weights
                `fields.carried(project.fields, kind)`; ordered by index over all calls of a kind.
        """
        for layer in self.layers[kind]:
            if not layer.canvases:
                make = Mesh if self.project.method == "mesh" else Canvas
                sides = zip(self.size, self.width, strict=True)
                layer.canvases = [make(len(layer.names), int(size), float(width), self.threads) for size, width in sides]
        for rotation, views in self.rotations.values():
            for start in range(0, len(table), BLOCK):
                self._add_block(kind, table[start : start + BLOCK], rotation, views)

    def _add_block(self, kind: str, table: np.ndarray, rotation: np.ndarray, views: list[int]) -> None:
        """Rotate some particles once, and give them to each view that sees them."""
        a, rows = 1 / (1 + self.redshift), self.rows
        offset = nearest_image(table[:, 1:4] - rows["position"][views[0]], self.box)
        row, offset = self._images(offset, table[:, 4], rotation, views)
        seen, r = _rotate(offset, rotation, a), table[row, 4] * a
        x, y, depth, h = np.empty((4, len(row)))
        for layer in self.layers[kind]:
            weights = np.empty((len(row), len(layer.columns)))
            for view in views:
                axis, sides = int(rows["axis"][view]), (self.width[view] / 2, layer.depth[view] / 2)
                n = _select(seen, axis, r, *sides, table, row, 5 + layer.columns, x, y, depth, h, weights)
                place = (x[:n], y[:n], depth[:n]) if self.project.method == "mesh" else (x[:n], y[:n])
                if n:
                    layer.canvases[view].add(*place, h[:n], weights[:n])

    def _images(self, offset: np.ndarray, h: np.ndarray, rotation: np.ndarray, views: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Periodic images that a view of this sightline may see: rows of `offset`, and their own offsets (comoving Mpc)."""
        frame = self.rows["frame"][views]
        comoving = 1 + self.redshift
        reach = half_extent(frame, self.width[views] / 2 * comoving, self.rows["depth_mpc"][views] / 2 * comoving).max(axis=0)
        across = np.abs(frame[:, :2]).sum(axis=1).max(axis=0)  # what a support radius adds along each axis of the box
        if (reach + across * h.max(initial=0) <= self.box / 2).all():
            return np.arange(len(offset)), offset
        return images(offset, np.minimum(reach + h[:, None] * across, self.box), self.box)

    def finish(self) -> dict[str, np.ndarray]:
        """The maps in their fields' units, {field: float32 (n_views, npix, npix)}; the images are given up."""
        npix = self.project.npix
        out = {field: np.zeros((len(self.width), npix, npix), np.float32) for field in self.project.fields}
        for layer in (layer for layers_ in self.layers.values() for layer in layers_):
            for view in range(len(layer.canvases)):
                image = dict(zip(layer.names, layer.canvases[view].image(), strict=True))
                layer.canvases[view] = None
                for field in layer.fields:
                    out[field][view] += self._field(field, view, image, layer.depth[view])
        return out

    def _field(self, field: str, view: int, image: dict[str, np.ndarray], depth: float) -> np.ndarray:
        project, rows = self.project, self.rows
        fwhm = fields.beam_of(field, rows)[view] / rows["width_mpc"][view] * project.npix * project.oversample
        margin, names = int(self.margin[view]), fields.WEIGHTS_OF[field]
        parts = [image[name] for name in names]
        if margin or project.oversample > 1:
            parts = [smooth(part, project.npix, project.oversample, margin, float(fwhm)) for part in parts]
        if len(parts) == 2:
            return np.divide(parts[0], parts[1], out=np.zeros(parts[0].shape), where=parts[1] > 0)
        return (parts[0] / np.float64(fields.scale(field, self.background, self.redshift, depth))).astype(np.float32)


@jit
def _rotate(offset, rotation, a):
    """Physical positions in a sightline's frame (3, n): each by its own sum, so that the bits do not depend on its neighbours."""
    out = np.empty((3, len(offset)))
    for n in range(len(offset)):
        x, y, z = offset[n, 0], offset[n, 1], offset[n, 2]
        for k in range(3):
            out[k, n] = (rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] * z) * a
    return out


@jit
def _select(seen, axis, r, half_width, half_depth, table, row, columns, x, y, depth, h, weights):
    """Write the particles that a view sees, in their order, to the beginning of x, y, depth, h (n,) and weights (n, k); how many."""
    found, first, second = 0, (axis + 1) % 3, (axis + 2) % 3
    for n in range(len(r)):
        u, v, s = seen[first, n], seen[second, n], seen[axis, n]
        if abs(s) < half_depth and max(abs(u), abs(v)) < half_width + r[n]:
            x[found], y[found], depth[found], h[found] = u, v, s, r[n]
            for k in range(len(columns)):
                weights[found, k] = table[row[n], columns[k]]
            found += 1
    return found
