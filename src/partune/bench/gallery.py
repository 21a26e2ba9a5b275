"""`partune gallery`: draw one SVG picture of each algorithm at work on Himmelblau's function.

Every picture shows a real study: the points that the optimiser evaluated and, below them, their values in order. The
seed is fixed, so the pictures are the same every time. The colours come from viridis (for order and depth) and from the
palette of Okabe and Ito; people with any kind of colour vision can tell them apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from partune.bench.marks import (
    FAINT,
    GAP,
    HIGH,
    INK,
    LEFT,
    LOW,
    SIDE,
    STRIP,
    TOP,
    VIRIDIS,
    WIDTH,
    box,
    circle,
    cross,
    dot,
    path,
    plus,
    ring,
    star,
    stroke,
    viridis,
)
from partune.bench.process import process
from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.annealing import Annealing
from partune.optimizers.bayes import GPBO
from partune.optimizers.fractal import FDA
from partune.optimizers.genetic import Genetic
from partune.optimizers.local_search import IteratedLocalSearch
from partune.optimizers.partition import Cell, Partitioned, Tree
from partune.report.figures import BLUE, VERMILLION
from partune.report.svg.contours import outlines
from partune.report.svg.frame import Axis, Frame, Key, keyed, sheet, text
from partune.study import Study, Watcher
from partune.trial import Trial

PLANE = SYNTHETIC["himmelblau"]
LEVELS = (340, 220, 150, 100, 60, 30, 12, 3)  # the function's values at the contour lines
LATTICE = 61  # the contours are computed on a grid with this many points per axis
FLOOR, CEILING = 0.001, 1000.0  # the range of the axis of values; values outside are drawn at its ends

ENDS = (25, 40, 50, 75, 100)  # the axis of evaluations ends at one of these numbers
MANY = 40  # points are drawn smaller if there are more evaluations than this
LIMIT = 20  # the depth is written into a cell if both of its sides are longer than this, in pixels

Place = tuple[float, float]


# ----- the studies


SEED = 0


class Course(Watcher):
    """A study that has been run, and observations of its optimiser during the run.

    Args:
        algorithm: The name of the algorithm.
        budget: The number of evaluations.
        options: The options of the algorithm.
        look: Called with the optimiser after each result; the return values are kept in `seen`.

    Attributes:
        seen: The return values of `look`, one per trial.
        study: The study.
        trials: The trials of the study.
        places: The points of the trials, in the function's coordinates.
        values: The function's values at the points.
    """

    def __init__(self, algorithm: str, budget: int, options: Mapping[str, Any], look: Callable[[Any], Any]) -> None:
        self.seen: list[Any] = []
        self._look = look
        self.study = Study(PLANE.space, PLANE, algorithm, seed=SEED, options=options, watcher=self)
        self.study.run(budget)
        self.trials = self.study.trials
        self.places = [coordinates(trial) for trial in self.trials]
        self.values = [-trial.score for trial in self.trials]  # the score is the function, negated

    def finished(self, trial: Trial) -> None:
        """Keep what `look` returns for the optimiser after a result."""
        self.seen.append(self._look(self.study.optimizer))


def coordinates(trial: Trial) -> Place:
    """Return a trial's point in the function's coordinates."""
    x1, x2 = (float(trial.config[name]) for name in PLANE.space.names)
    return x1, x2


def unscaled(point: Sequence[float]) -> Place:
    """Return a point of the unit cube in the function's coordinates."""
    return cast(Place, tuple(PLANE.space.decode(tuple(point)).values()))


def leaves(tree: Tree) -> list[Cell]:
    """Return the leaves of a tree: the cells that were not cut. They tile the cube; the oldest comes first."""
    # A cell does not record whether it was cut. But the levels and indices of each cell determine those of its parent,
    # which was cut.
    cut = {
        (
            (*cell.levels[:axis], level - 1, *cell.levels[axis + 1 :]),
            (*cell.indices[:axis], cell.indices[axis] // cell.base, *cell.indices[axis + 1 :]),
        )
        for cell in tree.cells
        for axis, level in enumerate(cell.levels)
        if level
    }
    return [cell for cell in tree.cells if (cell.levels, cell.indices) not in cut]


# ----- the pictures


class Layers(NamedTuple):
    """What a family of algorithms adds to a picture of the function and the evaluated points.

    Attributes:
        colours: The colours of the points.
        legend: The entries of the legend.
        behind: SVG elements to draw behind the points.
        front: SVG elements to draw in front of the points.
        hollow: The numbers of the trials whose points are drawn hollow.
    """

    colours: list[str]
    legend: list[Key]
    behind: Sequence[str] = ()
    front: Sequence[str] = ()
    hollow: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Scene:
    """A picture of an algorithm.

    Attributes:
        title: The title of the picture.
        algorithm: The name of the algorithm.
        budget: The number of evaluations.
        layers: A function that takes the study and the frame, and returns the additions to the picture.
        options: The options of the algorithm.
        look: Called with the optimiser after each result; `layers` finds the return values in `Course.seen`.
        shaded: Whether to draw the function as shaded areas at the very back; if not, as lines over `Layers.behind`.
    """

    title: str
    algorithm: str
    budget: int
    layers: Callable[[Course, Frame], Layers]
    options: Mapping[str, Any] = field(default_factory=dict)
    look: Callable[[Any], Any] = lambda optimizer: None
    shaded: bool = True

    def course(self) -> Course:
        """Run the study and return it."""
        return Course(self.algorithm, self.budget, self.options, self.look)

    def draw(self) -> str:
        """Run the study and return the picture."""
        return plane(self, self.course())


def plane(scene: Scene, course: Course) -> str:
    """Return a picture: a square with the function and the points, and below it the values in order of evaluation.

    Args:
        scene: The picture to draw.
        course: The study that the picture shows.
    """
    frame = Frame(LEFT, TOP, SIDE, SIDE, Axis(LOW, HIGH), Axis(LOW, HIGH))
    layers = scene.layers(course, frame)
    best = int(np.argmin(course.values))
    legend = [*layers.legend, Key(star(0, 0), 14, "best"), Key(plus(0, 0), 12, "minima of f")]
    note = f"{len(course.trials)} evaluations, the best f = {course.values[best]:.3g} at evaluation {best + 1}"
    lines = [text(10, 22, scene.title, 'font-size="15" font-weight="bold"'), text(10, 41, note, f'fill="{FAINT}"')]
    lines += keyed(legend, WIDTH)
    function = list(shaded(frame) if scene.shaded else lined(frame))
    lines += [*function, *layers.behind] if scene.shaded else [*layers.behind, *function]
    lines += [plus(frame.x(x1), frame.y(x2)) for x1, x2 in PLANE.argmax]
    r = 4.5 if len(course.trials) <= MANY else 3.4
    marks = [
        ring(x, y, colour, r) if n in layers.hollow else dot(x, y, colour, r)
        for n, ((x, y), colour) in enumerate(zip(frame.places(course.places), layers.colours, strict=True))
    ]
    lines += [*marks, *layers.front, star(*frame.places([course.places[best]])[0])]
    lines += [*frame.axes("x1", grid=False), frame.upright("x2")]
    lines += values(course, layers)
    return sheet(WIDTH, TOP + SIDE + GAP + STRIP + 50, lines)


def values(course: Course, layers: Layers) -> Iterator[str]:
    """Yield the SVG elements of the strip: the function's value at each evaluation, and the best value so far.

    Args:
        course: The study.
        layers: The colours of the points, and which points are hollow.
    """
    end = next(end for end in ENDS if end >= len(course.values))
    frame = Frame(LEFT, TOP + SIDE + GAP, SIDE, STRIP, Axis(0, end), Axis(FLOOR, CEILING, log=True))
    # A logarithmic axis cannot show 0, and several algorithms come very close to it.
    shown = [min(max(value, FLOOR), CEILING) for value in course.values]
    best = list(itertools.accumulate(shown, min))
    steps = [(i + move, value) for i, value in enumerate(best, start=1) for move in (0, 1)][:-1]
    yield from frame.axes("evaluation")
    yield frame.upright("f")
    yield frame.line(steps, f'stroke="{VERMILLION}" stroke-width="1.5"')
    for number, (i, value) in enumerate(enumerate(shown, start=1)):
        draw = ring if number in layers.hollow else dot
        yield draw(frame.x(i), frame.y(value), layers.colours[number], 3)
    yield text(LEFT + SIDE, frame.top - 6, "line: best so far", f'text-anchor="end" fill="{VERMILLION}" font-size="11"')


# ----- the layers of each family of algorithms


def ordered(course: Course, frame: Frame) -> Layers:
    """Colour the points by order, and mark on two edges of the square which values of each input were tried.

    Args:
        course: The study.
        frame: The square.
    """
    strokes = [
        line
        for x, y in frame.places(course.places)
        for line in (stroke(x, frame.bottom, x, frame.bottom - 9), stroke(LEFT, y, LEFT + 9, y))
    ]
    return Layers(by_order(course), [order_key(), Key(stroke(0, -6, 0, 6), 6, "values of one axis")], strokes)


def stratified(course: Course, frame: Frame) -> Layers:
    """Colour the points by order, and draw a grid in which every row and every column holds exactly one point.

    Args:
        course: The study.
        frame: The square.
    """
    layers, n = ordered(course, frame), len(course.trials)
    cuts = [LOW + (HIGH - LOW) * i / n for i in range(1, n)]
    grid = [
        *(stroke(frame.x(cut), TOP, frame.x(cut), frame.bottom, "white", 0.7) for cut in cuts),
        *(stroke(LEFT, frame.y(cut), LEFT + SIDE, frame.y(cut), "white", 0.7) for cut in cuts),
    ]
    return layers._replace(behind=[*grid, *layers.behind])


def modelled(course: Course, frame: Frame) -> Layers:
    """Colour the points by order, and draw those of the initial design hollow.

    Args:
        course: The study.
        frame: The square.
    """
    start = frozenset(range(cast(GPBO, course.study.optimizer).n_init))
    return Layers(by_order(course), [Key(ring(0, 0, VIRIDIS[0]), 12, "initial design"), order_key()], hollow=start)


def annealed(course: Course, frame: Frame) -> Layers:
    """Draw the moves of simulated annealing, both accepted and refused.

    Args:
        course: The study; its `seen` has, after each result, the number of the trial where the walk stands.
        frame: The square.
    """
    n_init = cast(Annealing, course.study.optimizer).n_init
    behind = []
    for n in range(n_init, len(course.trials)):
        stood, stands = course.seen[n - 1], course.seen[n]
        accepted = stands == n
        style = path(INK, 1.6) if accepted else path(FAINT, 0.8, "2 3")
        behind.append(frame.line([course.places[stood], course.places[n]], style))
    legend = [
        Key(ring(0, 0, VIRIDIS[0]), 12, "initial"),
        order_key(),
        Key(stroke(-9, 0, 9, 0, INK, 1.6), 20, "walk"),
        Key(stroke(-9, 0, 9, 0, FAINT, 1, "2 3"), 20, "refused"),
    ]
    return Layers(by_order(course), legend, behind, hollow=frozenset(range(n_init)))


def climbed(course: Course, frame: Frame) -> Layers:
    """Draw the climbs of iterated local search, the local optima, and the long moves away from them.

    Args:
        course: The study; its `seen` has, after each result, the number of the trial where the walk stands.
        frame: The square.
    """
    optimizer = cast(IteratedLocalSearch, course.study.optimizer)
    behind, optima = [], set()
    for n in range(optimizer.n_init, len(course.trials)):
        stood, stands = course.seen[n - 1], course.seen[n]
        if n in optimizer.leaves:
            optima.add(optimizer.leaves[n])
        if stands == n:
            style = path(VERMILLION, 1.6, "6 4") if n in optimizer.leaves else path(INK, 1.6)
            behind.append(frame.line([course.places[stood], course.places[n]], style))
    rings = [circle(*at, 8, VERMILLION, 1.6) for at in frame.places(course.places[n] for n in sorted(optima))]
    legend = [
        Key(ring(0, 0, VIRIDIS[0]), 12, "initial"),
        order_key(),
        Key(stroke(-9, 0, 9, 0, INK, 1.6), 20, "climb"),
        Key(stroke(-10, 0, 10, 0, VERMILLION, 1.6, "6 4"), 22, "leap"),
        Key(circle(0, 0, 7, VERMILLION, 1.6), 16, "local optimum"),
    ]
    return Layers(by_order(course), legend, behind, rings, frozenset(range(optimizer.n_init)))


def bred(course: Course, frame: Frame) -> Layers:
    """Colour the points by generation (each has as many trials as the population), and ring the last population.

    Args:
        course: The study.
        frame: The square.
    """
    optimizer = cast(Genetic, course.study.optimizer)
    last = math.ceil(len(course.trials) / optimizer.size) - 1
    colours = [viridis(n // optimizer.size / last) for n in range(len(course.trials))]
    alive = [
        circle(*at, 8, INK, 1.2) for at in frame.places(course.places[trial.number] for trial in optimizer.population)
    ]
    legend = [Key(dot(0, 0, viridis(g / last)), 12, "generation 0" if g == 0 else str(g)) for g in range(last + 1)]
    return Layers(colours, [*legend, Key(circle(0, 0, 7, INK, 1.2), 16, "last population")], front=alive)


def partitioned(course: Course, frame: Frame) -> Layers:
    """Draw the leaves of the tree and the points, coloured by depth.

    Several cells can have the same point. It gets the depth of the first of them.

    Args:
        course: The study.
        frame: The square.
    """
    optimizer = cast(Partitioned, course.study.optimizer)
    tree = optimizer.tree
    assert tree is not None  # the study has run
    tiles = leaves(tree)
    depths = sorted({cell.depth for cell in tiles})
    bottom = depths[-1]
    behind, crosses = [], []
    for cell in tiles:
        (left, low), (right, high) = frame.places(map(unscaled, (cell.lower, cell.upper)))
        width, height = round(right - left, 1), round(low - high, 1)
        behind.append(
            f'<rect x="{left:g}" y="{high:g}" width="{width:g}" height="{height:g}" '
            f'fill="{viridis(cell.depth / bottom)}" fill-opacity="0.6" stroke="white" stroke-width="1.2"/>'
        )
        if min(width, height) > LIMIT:
            behind.append(text(left + 4, low - 5, str(cell.depth), f'fill="{INK}" font-size="11"'))
        if optimizer.known(cell.point) is None:
            crosses.append(cross((left + right) / 2, (low + high) / 2))
    legend = [
        Key(box(viridis(depth / bottom), 0.6), 14, f"depth {depth}" if depth == depths[0] else str(depth))
        for depth in depths
    ]
    if crosses:
        legend.append(Key(cross(0, 0), 12, "inferred"))
    first: dict[Place, int] = {}
    for cell in tree.cells:
        first.setdefault(unscaled(cell.point), cell.depth)
    return Layers([viridis(first[at] / bottom) for at in course.places], legend, behind, crosses)


def divided(course: Course, frame: Frame) -> Layers:
    """Let DIRECT cut all cells that it has evaluated, then draw its leaves as `partitioned` does.

    Args:
        course: The study.
        frame: The square.
    """
    # DIRECT cuts the cells of an iteration only when the next iteration begins. Asking DIRECT whether it is finished
    # makes the next iteration begin.
    assert not course.study.optimizer.finished
    return partitioned(course, frame)


def decomposed(course: Course, frame: Frame) -> Layers:
    """Colour the points by order, and draw FDA's regions in colours of their level.

    Args:
        course: The study.
        frame: The square.
    """
    styles = [(INK, 1.2), (BLUE, 1.6), (VERMILLION, 1.6)]
    regions = cast(FDA, course.study.optimizer).regions
    behind = [
        circle(*at, region.r * SIDE, *styles[region.level])
        for region, at in zip(regions, frame.places(unscaled(region.c) for region in regions), strict=True)
    ]
    levels = sorted({region.level for region in regions})
    legend = [Key(circle(0, 0, 7, *styles[level]), 16, f"level {level}") for level in levels]
    return Layers(by_order(course), [order_key(), *legend], behind)


# ----- the function, and colours by order


def shaded(frame: Frame) -> Iterator[str]:
    """Yield the function as shaded areas, which are darker where its values are smaller."""
    for k, level in enumerate(LEVELS):
        share = k / (len(LEVELS) - 1)
        grey = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in ((238, 150), (240, 165), (243, 180)))
        yield f'<path d="{area(frame, level)}" fill="{grey}" fill-rule="evenodd"/>'


def lined(frame: Frame) -> Iterator[str]:
    """Yield the function as contour lines."""
    for level in LEVELS:
        yield f'<path d="{area(frame, level)}" fill="none" stroke="{INK}" stroke-opacity="0.55" stroke-width="0.7"/>'


def area(frame: Frame, level: float) -> str:
    """Return the area in which the function is at most a level, as the data of an SVG path.

    Args:
        frame: The square to draw in.
        level: The level.
    """
    axis = np.linspace(LOW, HIGH, LATTICE)
    lattice = np.array([[PLANE.loss((x1, x2)) for x2 in axis.tolist()] for x1 in axis.tolist()])
    step = (HIGH - LOW) / (LATTICE - 1)
    rings = []
    for outline in outlines(lattice, level):
        places = frame.places((LOW + step * i, LOW + step * j) for i, j in outline)
        rings.append("M" + " ".join(f"{x:g},{y:g}" for x, y in places) + "Z")
    return "".join(rings)


def by_order(course: Course) -> list[str]:
    """Return the colours of the points, from dark to light in the order of evaluation."""
    n = len(course.trials)
    return [viridis(i / (n - 1)) for i in range(n)]


def order_key() -> Key:
    """Return the entry of the legend that explains colours by order."""
    dots = "".join(dot(7 * k - 14, 0, viridis(k / 4), 4) for k in range(5))
    return Key(dots, 40, "first to last")


# ----- all pictures

SCENES: dict[str, Scene] = {
    "grid": Scene("Grid", "grid", 25, ordered, {"points": 5}),
    "random": Scene("Random search", "random", 25, ordered),
    "lhs": Scene("Latin hypercube", "lhs", 25, stratified, {"size": 25}),
    "sobol": Scene("Sobol points", "sobol", 32, ordered),
    "annealing": Scene(
        "Simulated annealing",
        "annealing",
        50,
        annealed,
        {"horizon": 45},
        look=lambda optimizer: optimizer.current.number,
    ),
    "ils": Scene("Iterated local search", "ils", 70, climbed, look=lambda optimizer: optimizer.walk()[1].number),
    "genetic": Scene("Genetic algorithm", "genetic", 50, bred),
    "direct": Scene("DIRECT", "direct", 83, divided, shaded=False),
    "fda": Scene("Fractal decomposition (FDA)", "fda", 75, decomposed),
    "soo": Scene("Simultaneous optimistic optimisation (SOO)", "soo", 81, partitioned, shaded=False),
    "sequool": Scene("SequOOL", "sequool", 79, partitioned, {"budget": 80}, shaded=False),
    "bamsoo": Scene("BaMSOO", "bamsoo", 81, partitioned, shaded=False),
    "bo": Scene("Bayesian optimisation", "bo", 30, modelled),
}
PICTURES: dict[str, Callable[[], str]] = {**{name: scene.draw for name, scene in SCENES.items()}, "process": process}


def write(folder: Path) -> list[Path]:
    """Draw all pictures into a folder and return their files; raise UserError if the folder cannot be written."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in PICTURES.items():
            (path := folder / f"{name}.svg").write_text(draw(), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror or error}") from None
    return written
