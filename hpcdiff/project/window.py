"""A particle on to its window of pixels, in vector instructions: the inner loop of the deposit.

A window is W x W pixels, W one of `WIDTHS`. Row i and column j get sum_m sign_m A_m(i) A_m(j), where A_m is the integral of a
factor of `kernel.separable` over the pixel; rows of the factors are differences of one polynomial at the pixels' edges. Shares
below 0 (outside of the support, 1e-4 of the peak at most) are cut, and the rest is scaled to the particle's mass. Written as
LLVM vectors because a compiler cannot prove that image and particle don't overlap and so would not use vectors by itself.
"""

from __future__ import annotations

from functools import partial, reduce

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import alloca_once, get_or_insert_function
from numba.extending import intrinsic

from hpcdiff.project.kernel import DEGREE, POWER, TERMS, separable

LANES_OF = {1: 1, 2: 2, 4: 4, 6: 8, 8: 8, 12: 16, 16: 16}
"""Widths of windows in pixels, and the numbers in the vector that holds a row."""
WIDTHS = tuple(LANES_OF)
"""Pixels along a window's side; a particle takes the least that holds its support."""
TILE = 64
"""Pixels along a tile's side, a power of two: windows begin in a tile."""
GROUP = 4
"""Weights added in one pass."""
RECORD = 4
"""Numbers of a particle before its weights: column and row from the window's corner, 1 / support radius, row * TILE + column
of the corner in the tile."""


def jit(function=None, *, reorder: bool = False):
    """numba.njit without the GIL, cached on disk where a cache can be written; reorder: sums may be taken in vectors."""
    if function is None:
        return partial(jit, reorder=reorder)
    options = {"nogil": True, "fastmath": {"reassoc", "nsz", "contract", "arcp"} if reorder else False}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # a read-only installation and no home to write to
        return numba.njit(**options)(function)


def factors() -> np.ndarray:
    """What `window` needs of the kernel, float32: for each term the tail from the highest power down, then half."""
    tail, half, _ = separable()
    return np.concatenate([tail[:, ::-1], half[:, None]], axis=1).astype(np.float32).ravel()


@intrinsic(prefer_literal=True)
def window(context, buffer, record, start, first, factor, width, lanes, weights):
    """Add a particle to the window of `width` pixels that begins at its place in the buffer.

    buffer: float32, flat, (rows, len(weights), lanes) in C order; record: float32, flat; start: int64, where the particle's record
    begins in it; first: int64, where in the record the weights begin; factor: `factors()`; width, lanes: literal; weights: a tuple
    as long as there are weights.
    """
    size, stride, k = width.literal_value, lanes.literal_value, len(weights)

    def generate(context, builder, signature, arguments):
        image, particle, kernel = (context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 1, 4))
        particle = builder.gep(particle, [arguments[2]])
        carried = builder.gep(particle, [arguments[3]])
        _Window(builder, size, stride, k).add(image, particle, carried, kernel)
        return context.get_dummy_value()

    return types.void(buffer, record, start, first, factor, width, lanes, weights), generate


class _Window:
    """Writes the instructions for one width and number of weights.

    Rows are vectors of `lanes` numbers, of which those beyond the width stay 0. Up to 8 lanes the two sides are worked out in one
    vector, and up to 4 the window is one vector too.
    """

    def __init__(self, builder, width: int, stride: int, k: int):
        self.builder, self.width, self.stride, self.k = builder, width, stride, k
        self.lanes = LANES_OF[width]
        self.scalar, self.index, self.long = ir.FloatType(), ir.IntType(32), ir.IntType(64)

    def vector(self, n: int) -> ir.Type:
        return ir.VectorType(self.scalar, n)

    def constant(self, values) -> ir.Constant:
        values = [ir.Constant(self.scalar, float(v)) for v in values]
        return ir.Constant(self.vector(len(values)), values)

    def pick(self, a, b, lanes: list[int]):
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(self.index, len(lanes)), lanes))

    def splat(self, value, n: int):
        one = self.builder.insert_element(ir.Constant(self.vector(n), ir.Undefined), value, self.index(0))
        return self.pick(one, one, [0] * n)

    def call(self, name: str, *arguments):
        kind = arguments[0].type
        signature = ir.FunctionType(kind, [kind] * len(arguments))
        function = get_or_insert_function(self.builder.module, signature, f"llvm.{name}.v{kind.count}f32")
        return self.builder.call(function, arguments)

    def at(self, pointer, n: int):
        return self.builder.gep(pointer, [self.long(n)])

    def load(self, pointer, n: int):
        return self.builder.load(self.at(pointer, n))

    def choose(self, comparison: str, a, b):
        """a where it compares so to b, else b."""
        return self.builder.select(self.builder.fcmp_ordered(comparison, a, b), a, b)

    def add(self, image, particle, carried, factor) -> None:
        b = self.builder
        place = b.fptosi(self.load(particle, 3), self.long)
        row, lane = b.lshr(place, self.long(TILE.bit_length() - 1)), b.and_(place, self.long(TILE - 1))
        image = b.gep(image, [b.add(b.mul(row, self.long(self.k * self.stride)), lane)])
        weights = [self.load(carried, c) for c in range(self.k)]
        if self.width == 1:
            for c, weight in enumerate(weights):
                b.store(b.fadd(self.load(image, c * self.stride), weight), self.at(image, c * self.stride))
            return
        rows = self.shares(particle, factor)
        inverse = b.fdiv(ir.Constant(self.scalar, 1.0), self.total(rows))
        scaled = [self.splat(b.fmul(weight, inverse), self.lanes) for weight in weights]
        if len(rows) == 1:
            rows = [self.pick(rows[0], rows[0], list(range(i * self.lanes, (i + 1) * self.lanes))) for i in range(self.width)]
        for i, row in enumerate(rows):
            for c in range(self.k):
                there = b.bitcast(self.at(image, (i * self.k + c) * self.stride), self.vector(self.lanes).as_pointer())
                before = b.load(there)
                before.align = 4
                b.store(self.call("fmuladd", row, scaled[c], before), there).align = 4

    def shares(self, particle, factor) -> list:
        """The window's rows, shares of the particle's mass, not yet normalised."""
        b, w, n = self.builder, self.width, self.lanes
        inverse = self.load(particle, 2)
        places = [self.load(particle, 0), self.load(particle, 1)]
        sides = [self.edges(places, inverse)] if n <= 8 else [self.edges([place], inverse) for place in places]
        rows = [None] * (1 if n <= 4 else w)
        for m in range(TERMS):
            parts = [self.pixels(edges, factor, m * (DEGREE + 2)) for edges in sides]
            across, down = parts[0], parts[-1]
            if n <= 4:
                one = self.pick(across, across, list(range(n)) * w)
                others = [self.pick(down, down, [n + i for i in range(w) for _ in range(n)])]
            else:
                one = self.pick(across, across, list(range(n)))
                memory = alloca_once(b, down.type)
                b.store(down, memory).align = 4
                memory = b.bitcast(memory, self.scalar.as_pointer())
                others = [self.splat(self.load(memory, i + n * (len(sides) == 1)), n) for i in range(w)]
            if separable().sign[m] < 0:
                one = b.fneg(one)
            rows = [b.fmul(one, o) if m == 0 else self.call("fmuladd", one, o, row) for o, row in zip(others, rows, strict=True)]
        zero = self.constant([0.0] * rows[0].type.count)
        return [self.choose(">", row, zero) for row in rows]

    def edges(self, places: list, inverse):
        """Upper edges of the window's pixels, one side after the other: distance over the support radius, and 1 less its absolute."""
        b, w, n = self.builder, self.lanes, self.lanes * len(places)
        centre = self.splat(places[0], n)
        if len(places) == 2:
            centre = self.pick(centre, self.splat(places[1], n), [0] * w + [n] * w)
        s = b.fmul(b.fsub(self.constant([*range(1, w + 1)] * len(places)), centre), self.splat(inverse, n))
        one = self.constant([1.0] * n)
        return s, b.fsub(one, self.choose("<", self.call("fabs", s), one))

    def pixels(self, edges, factor, here: int):
        """One factor's integral over each pixel along the sides."""
        b, (s, t) = self.builder, edges
        n = s.type.count
        value = self.splat(self.load(factor, here), n)
        for power in range(1, DEGREE + 1):
            value = self.call("fmuladd", value, t, self.splat(self.load(factor, here + power), n))
        square = b.fmul(t, t)
        fall = reduce(b.fmul, [b.fmul(square, square)] + [t] * (POWER - 3))
        half = self.splat(self.load(factor, here + DEGREE + 1), n)
        rest = self.call("fmuladd", b.fneg(value), fall, half)
        value = b.select(b.fcmp_ordered("<", s, self.constant([0.0] * n)), b.fneg(rest), rest)
        return b.fsub(value, self.pick(value, b.fneg(half), [n if q % self.lanes == 0 else q - 1 for q in range(n)]))

    def total(self, rows: list):
        b, n = self.builder, rows[0].type.count
        while len(rows) > 1:
            rows = [b.fadd(*pair) for pair in zip(rows[::2], rows[1::2], strict=False)] + rows[len(rows) // 2 * 2 :]
        row = rows[0]
        while n % 2 == 0:
            n //= 2
            row = b.fadd(self.pick(row, row, list(range(n))), self.pick(row, row, list(range(n, 2 * n))))
        return reduce(b.fadd, [b.extract_element(row, self.index(q)) for q in range(n)])
