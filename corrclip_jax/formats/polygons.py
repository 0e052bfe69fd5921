"""Polygons of masks: traced along the edges of pixels, simplified, without holes, and filled again.

Coordinates are (x, y) in pixels from the top left corner of the image, so that the pixel in row y and column x is
the square from (x, y) to (x + 1, y + 1). A traced polygon is exact: filling it gives the mask back. Pixels that
touch at a corner alone belong to different polygons, so no polygon touches itself.

Tracing and filling need NumPy and SciPy alone; simplifying and cutting holes open need shapely, of the extra
`formats`.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from corrclip_jax.ops.equivalence import equivalence_classes
from corrclip_jax.runtime.extras import require

if TYPE_CHECKING:
    from shapely import Polygon as Shape

Ring = Float64[np.ndarray, "_ 2"]
"""The corners of a closed line, the first not repeated."""

# Directions of the sides of a pixel as one walks around it with the pixel on the right: right, down, left, up.
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
_CHANGE = 0.1  # share of its area by which a polygon may grow or shrink
_POLYGON = 3  # shapely's number of the type
_SMALL = 4.0  # a polygon in a box no larger than this many tolerances keeps its corners


class Polygon(NamedTuple):
    """An area with one outline.

    Attributes:
      exterior: its outline, clockwise as one sees it.
      holes: the outlines of the holes in it, counter-clockwise.
    """

    exterior: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def area(self) -> float:
        """In pixels."""
        return ring_area(self.exterior) - sum(abs(ring_area(hole)) for hole in self.holes)


def trace(mask: Bool[np.ndarray, "H W"]) -> list[Polygon]:
    """The polygons of a mask, exactly, in the order of their first pixels, row by row.

    >>> [polygon.exterior.tolist() for polygon in trace(np.ones((1, 2), bool))]
    [[[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]]]
    """
    return trace_all(mask.astype(np.int64), 1)[0]


def trace_all(ids: Int[np.ndarray, "H W"], count: int) -> list[list[Polygon]]:
    """The polygons of the pixels of each id, 1 to `count`, as `trace` gives them, for the cost of one."""
    found: list[list[Polygon]] = [[] for _ in range(count)]
    if not ids.any():
        return found
    pieces, owners = _connected(ids)
    exteriors: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for piece, ring in _rings(np.pad(pieces, 1)):
        if ring_area(ring) > 0:
            exteriors[piece] = ring
        else:
            holes.setdefault(piece, []).append(ring)
    for piece, owner in enumerate(owners.tolist(), start=1):
        found[owner - 1].append(Polygon(exteriors[piece], tuple(holes.get(piece, ()))))
    return found


def simplify(polygons: Iterable[Polygon], tolerance: float) -> list[Polygon]:
    """Valid polygons with fewer corners, nowhere farther than `tolerance` pixels from the given ones.

    A polygon that is hardly larger than the tolerance keeps its corners, and so does one that would lose or gain
    more than a tenth of its area. A hole keeps being one, and none appears.

    Args:
      polygons: valid ones, as `trace` makes them.
      tolerance: in pixels; 0 returns the polygons as they are.

    Raises:
      MissingExtraError: for a tolerance above 0, if shapely is not installed.
    """
    if tolerance == 0:
        return list(polygons)
    require("shapely", "simplified polygons", "formats", "or keep every corner with a tolerance of 0")
    simple = list(polygons)
    large = [
        index for index, one in enumerate(simple) if np.ptp(one.exterior, axis=0).max() > _SMALL * tolerance
    ]
    for index, polygon in zip(large, _simplified([simple[k] for k in large], tolerance), strict=True):
        simple[index] = polygon
    return simple


def without_holes(polygons: Iterable[Polygon]) -> list[Ring]:
    """Outlines of polygons that have no holes and together cover the same area, for formats that know no holes.

    A polygon is cut from top to bottom through a hole, along a whole column, until none of the parts has one.

    Raises:
      MissingExtraError: if there is a hole and shapely is not installed.
    """
    rings = []
    for polygon in polygons:
        if not polygon.holes:
            rings.append(polygon.exterior)
            continue
        require("shapely", "polygons with holes in this format", "formats")
        rings += [_clockwise(np.array(part.exterior.coords)[:-1]) for part in _cut(_shape(polygon))]
    return rings


def fill(rings: Iterable[Ring], height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The pixels whose centres an odd number of the closed lines surround: outlines and holes of polygons.

    >>> fill(rings_of(trace(np.eye(2, dtype=bool))), 2, 2).tolist()
    [[True, False], [False, True]]
    """
    changes = np.zeros((height, width + 1), np.int64)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, axis=0)
        top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        first = np.clip(np.ceil(top - 0.5), 0, height).astype(int)
        last = np.clip(np.ceil(bottom - 0.5), 0, height).astype(int)  # excluded
        counts = np.maximum(last - first, 0)
        side = np.repeat(np.arange(len(ring)), counts)
        row = np.arange(len(side)) - np.repeat(np.cumsum(counts) - counts, counts) + first[side]
        share = (row + 0.5 - start[side, 1]) / (end[side, 1] - start[side, 1])
        x = start[side, 0] + share * (end[side, 0] - start[side, 0])
        np.add.at(changes, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(int)), 1)
    return np.cumsum(changes[:, :width], axis=1) % 2 == 1


def rings_of(polygons: Iterable[Polygon]) -> list[Ring]:
    """All outlines and holes of polygons, for `fill`."""
    return list(itertools.chain.from_iterable((one.exterior, *one.holes) for one in polygons))


def _connected(ids: Int[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, " P"]]:
    """Pieces of pixels that have the same id and share sides, numbered from 1 on by their first pixels; their ids.

    The number of a pixel with id 0 is 0.
    """
    begins = np.ones(ids.shape, bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    runs = np.cumsum(begins.ravel(), dtype=np.int64).reshape(ids.shape) - 1
    # Two runs that touch do so first where one of them begins.
    touch = (ids[1:] == ids[:-1]) & (begins[1:] | begins[:-1])
    pairs = np.stack([runs[:-1][touch], runs[1:][touch]], axis=1)
    id_of_run = ids[begins]
    piece = equivalence_classes(len(id_of_run), pairs)
    id_of_piece = np.zeros(piece.max() + 1, ids.dtype)
    id_of_piece[piece] = id_of_run
    number = np.cumsum(id_of_piece != 0) * (id_of_piece != 0)
    return number[piece][runs], id_of_piece[id_of_piece != 0]


def _rings(pieces: Int[np.ndarray, "h w"]) -> Iterable[tuple[int, Ring]]:
    """Every closed line around pixels of one id, with the id; 0 surrounds the map.

    A walk keeps the id's pixels on its right. Where two of them touch at a corner alone it turns left, to the other
    one, so that lines do not cross or touch themselves.
    """
    edges = _Edges.of(pieces)
    following = edges.following()
    turns = (edges.direction[following] != edges.direction).tolist()
    corners = (edges.end() - 1).tolist()  # of the map without its margin
    following, ids = following.tolist(), edges.piece.tolist()
    seen = [False] * len(following)
    for first in range(len(following)):
        if seen[first]:
            continue
        walk, at = [], first
        while not seen[at]:
            seen[at] = True
            if turns[at]:
                walk.append(corners[at])
            at = following[at]
        # The sides are sorted, so that the walk began at the topmost corner, the leftmost of several.
        yield ids[first], np.array([walk[-1], *walk[:-1]], np.float64)


class _Edges(NamedTuple):
    """Sides of pixels between one id and another, sorted by `key`: id, then start, then direction."""

    piece: Int[np.ndarray, " E"]
    x: Int[np.ndarray, " E"]
    y: Int[np.ndarray, " E"]
    direction: Int[np.ndarray, " E"]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, pieces: Int[np.ndarray, "h w"]) -> "_Edges":
        """The edges of all pixels of a map whose margin is 0."""
        inner, found = pieces[1:-1, 1:-1], []
        # The pixel across each side, and where a walk around the own pixel enters that side.
        above, below = pieces[:-2, 1:-1], pieces[2:, 1:-1]
        left, right = pieces[1:-1, :-2], pieces[1:-1, 2:]
        sides = [(above, 0, 0), (right, 1, 0), (below, 1, 1), (left, 0, 1)]
        for direction, (neighbour, dx, dy) in enumerate(sides):
            y, x = np.nonzero((inner != 0) & (inner != neighbour))
            found.append(np.stack([inner[y, x], x + 1 + dx, y + 1 + dy, np.full(len(x), direction)]))
        piece, x, y, direction = np.concatenate(found, axis=1).astype(np.int64)
        edges = cls(piece, x, y, direction, pieces.shape)
        order = np.argsort(edges._key(x, y, direction), kind="stable")
        return cls(piece[order], x[order], y[order], direction[order], pieces.shape)

    def end(self) -> Int[np.ndarray, "E 2"]:
        return np.stack([self.x, self.y], axis=1) + _STEPS[self.direction]

    def following(self) -> Int[np.ndarray, " E"]:
        """The side that a walk takes after each: to the left if it can, else straight on, else to the right."""
        keys = self._key(self.x, self.y, self.direction)
        end = self.end()
        found = np.full(len(keys), -1)
        for turn in (1, 0, 3):  # the least wanted first
            wanted = self._key(end[:, 0], end[:, 1], (self.direction + turn) % 4)
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found = np.where(keys[place] == wanted, place, found)
        return found

    def _key(self, x: np.ndarray, y: np.ndarray, direction: np.ndarray) -> np.ndarray:
        height, width = self.shape
        return ((self.piece.astype(np.int64) * (height + 1) + y) * (width + 1) + x) * 4 + direction


def ring_area(ring: Ring) -> float:
    """The area inside, positive for a line that runs clockwise as one sees it (y points down)."""
    x, y = ring.T
    inner = np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])
    return float(inner + x[-1] * y[0] - x[0] * y[-1]) / 2


def _clockwise(ring: Ring) -> Ring:
    return ring if ring_area(ring) > 0 else ring[::-1]


def _simplified(polygons: list[Polygon], tolerance: float) -> list[Polygon]:
    """The polygons with fewer corners; GEOS alone may miss the tolerance, so each attempt is checked."""
    import shapely

    simple, left = list(polygons), np.arange(len(polygons))
    shapes = np.array([_shape(one) for one in polygons], object)
    areas = shapely.area(shapes)
    corners, owners = shapely.get_coordinates(shapes, return_index=True)
    points = shapely.points(corners)
    for share in (1, 0.75, 0.5, 0.25):
        if not len(left):
            break
        found = shapely.simplify(shapes[left], share * tolerance, preserve_topology=True)
        good = (shapely.get_type_id(found) == _POLYGON) & ~shapely.is_empty(found) & shapely.is_valid(found)
        # Not as of a line of single pixels.
        good &= np.abs(shapely.area(found) - areas[left]) <= _CHANGE * areas[left]
        outlines = shapely.boundary(found)
        shapely.prepare(outlines)
        place = np.full(len(polygons), -1)
        place[left[good]] = np.flatnonzero(good)
        asked = place[owners] >= 0
        near = shapely.dwithin(outlines[place[owners[asked]]], points[asked], tolerance + 1e-9)
        good[place[owners[asked]][~near]] = False
        for index, shape in zip(left[good].tolist(), found[good], strict=True):
            simple[index] = _polygon(shape)
        left = left[~good]
    return simple


def _shape(polygon: Polygon) -> "Shape":
    import shapely

    return shapely.Polygon(polygon.exterior, polygon.holes)


def _polygon(shape: Any) -> Polygon:
    holes = (_clockwise(np.array(hole.coords)[:-1])[::-1] for hole in shape.interiors)
    return Polygon(_clockwise(np.array(shape.exterior.coords)[:-1]), tuple(holes))


def _cut(shape: "Shape") -> Sequence["Shape"]:
    """The parts of a polygon, cut through the middle one of its holes until none has a hole."""
    import shapely

    if not shape.interiors:
        return [shape]
    hole = sorted(shape.interiors, key=lambda one: one.bounds[0])[len(shape.interiors) // 2]
    x0, y0, x1, y1 = shape.bounds
    x = round((hole.bounds[0] + hole.bounds[2]) / 2)
    if not hole.bounds[0] < x < hole.bounds[2]:  # of one column, or smaller
        x = (hole.bounds[0] + hole.bounds[2]) / 2
    halves = [shapely.box(x0, y0, x, y1), shapely.box(x, y0, x1, y1)]
    parts = [part for half in halves for part in shapely.get_parts(shape.intersection(half))]
    return [piece for part in parts if part.area > 0 for piece in _cut(part)]
