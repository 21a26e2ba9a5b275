"""The algorithms at work, one picture each, as SVG: what they did with Himmelblau's function.

Every picture shows a real study of the real optimiser, the same every time: the points that it evaluated and, below
them, their values in order. Colours are viridis (order, depth) and Okabe and Ito's, which people with any kind of
colour vision tell apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from partune.errors import UserError
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.acquisition import acquisition
from partune.optimizers.annealing import Annealing
from partune.optimizers.bayes import GPBO
from partune.optimizers.fractal import FDA
from partune.optimizers.genetic import Genetic
from partune.optimizers.local_search import IteratedLocalSearch
from partune.optimizers.partition import Cell, Partitioned, Tree
from partune.optimizers.surrogate import Surrogate
from partune.report.figures import BLUE, ORANGE, VERMILLION
from partune.report.svg.contours import outlines
from partune.report.svg.frame import Axis, Frame, Key, keyed, sheet, text
from partune.runtime.threads import one_blas_thread
from partune.study import Study, Watcher
from partune.trial import Trial

PLANE = SYNTHETIC["himmelblau"]
LOW, HIGH = -5.0, 5.0  # of both axes
LEVELS = (340, 220, 150, 100, 60, 30, 12, 3)  # of the function: areas below them are shaded
LATTICE = 61  # values an axis that the areas are drawn from
FLOOR, CEILING = 0.001, 1000.0  # ends of the values' axis; what is smaller lies on its edge

WIDTH, LEFT, TOP, SIDE = 480, 58, 92, 400  # of the picture, and of its square; pixels
GAP, STRIP = 58, 110  # between the square and the values, and their height
ENDS = (25, 40, 50, 75, 100)  # where an axis of evaluations may end
MANY = 40  # evaluations, beyond which points are smaller
LIMIT = 20  # pixels of a cell's side, above which its depth is written into it

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
INK, FAINT = "#222", "#666"

Place = tuple[float, float]


# ----- what happened


SEED = 0


class Course(Watcher):
    """A study as it went. seen: what `look` saw of the optimiser after each result."""

    def __init__(self, algorithm: str, budget: int, options: Mapping[str, Any], look: Callable[[Any], Any]) -> None:
        self.seen: list[Any] = []
        self._look = look
        self.study = Study(PLANE.space, PLANE, algorithm, seed=SEED, options=options, watcher=self)
        self.study.run(budget)
        self.trials = self.study.trials
        self.places = [place(trial) for trial in self.trials]
        self.values = [-trial.score for trial in self.trials]  # as they are minimised in the literature

    def finished(self, trial: Trial) -> None:
        self.seen.append(self._look(self.study.optimizer))


def place(trial: Trial) -> Place:
    x1, x2 = (float(trial.config[name]) for name in PLANE.space.names)
    return x1, x2


def unscaled(point: Sequence[float]) -> Place:
    """A point of the unit cube in the function's coordinates, as its space decodes it."""
    return cast(Place, tuple(PLANE.space.decode(tuple(point)).values()))


def leaves(tree: Tree) -> list[Cell]:
    """The cells that were not cut, in the order in which they were made: they tile the cube."""
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
    """What a family of algorithms adds to the function and the points.

    behind, front: elements below and above the points. colours: of the points. hollow: numbers of trials drawn so.
    """

    colours: list[str]
    legend: list[Key]
    behind: Sequence[str] = ()
    front: Sequence[str] = ()
    hollow: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Scene:
    """One picture: an algorithm, what it is given, and how its doings are drawn."""

    title: str
    algorithm: str
    budget: int
    layers: Callable[[Course, Frame], Layers]
    options: Mapping[str, Any] = field(default_factory=dict)
    look: Callable[[Any], Any] = lambda optimizer: None
    shaded: bool = True  # the function as areas; else as lines, over what is behind

    def course(self) -> Course:
        return Course(self.algorithm, self.budget, self.options, self.look)

    def draw(self) -> str:
        return plane(self, self.course())


def plane(scene: Scene, course: Course) -> str:
    """The square with the function and the points, and their values in order below."""
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
    """The function's values by evaluation, and the best so far."""
    end = next(end for end in ENDS if end >= len(course.values))
    frame = Frame(LEFT, TOP + SIDE + GAP, SIDE, STRIP, Axis(0, end), Axis(FLOOR, CEILING, log=True))
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


# ----- how families are drawn


def ordered(course: Course, frame: Frame) -> Layers:
    """Dark to light in the order of evaluation; strokes on the edges are what each axis has seen."""
    strokes = [
        line
        for x, y in frame.places(course.places)
        for line in (stroke(x, frame.bottom, x, frame.bottom - 9), stroke(LEFT, y, LEFT + 9, y))
    ]
    return Layers(by_order(course), [order_key(), Key(stroke(0, -6, 0, 6), 6, "values of one axis")], strokes)


def stratified(course: Course, frame: Frame) -> Layers:
    """As `ordered`, with the strata of which every row and column has one point."""
    layers, n = ordered(course, frame), len(course.trials)
    cuts = [LOW + (HIGH - LOW) * i / n for i in range(1, n)]
    grid = [
        *(stroke(frame.x(cut), TOP, frame.x(cut), frame.bottom, "white", 0.7) for cut in cuts),
        *(stroke(LEFT, frame.y(cut), LEFT + SIDE, frame.y(cut), "white", 0.7) for cut in cuts),
    ]
    return layers._replace(behind=[*grid, *layers.behind])


def modelled(course: Course, frame: Frame) -> Layers:
    """The initial design hollow, the rest in order."""
    start = frozenset(range(cast(GPBO, course.study.optimizer).n_init))
    return Layers(by_order(course), [Key(ring(0, 0, VIRIDIS[0]), 12, "initial design"), order_key()], hollow=start)


def annealed(course: Course, frame: Frame) -> Layers:
    """The walk, and moves that it did not accept. seen: where it stood."""
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
    """Climbs, and leaps from local optima. seen: where the climb stood."""
    optimizer = cast(IteratedLocalSearch, course.study.optimizer)
    behind, optima = [], set()
    for n in range(optimizer.n_init, len(course.trials)):
        stood, stands = course.seen[n - 1], course.seen[n]
        if n in optimizer.leaves:
            optima.add(optimizer.leaves[n])
        if stands == n:
            style = path(VERMILLION, 1.6, "6 4") if n in optimizer.leaves else path(INK, 1.6)
            behind.append(frame.line([course.places[stood], course.places[n]], style))
    found = [circle(*at, 8, VERMILLION, 1.6) for at in frame.places(course.places[n] for n in sorted(optima))]
    legend = [
        Key(ring(0, 0, VIRIDIS[0]), 12, "initial"),
        order_key(),
        Key(stroke(-9, 0, 9, 0, INK, 1.6), 20, "climb"),
        Key(stroke(-10, 0, 10, 0, VERMILLION, 1.6, "6 4"), 22, "leap"),
        Key(circle(0, 0, 7, VERMILLION, 1.6), 16, "local optimum"),
    ]
    return Layers(by_order(course), legend, behind, found, frozenset(range(optimizer.n_init)))


def bred(course: Course, frame: Frame) -> Layers:
    """Coloured by generation, as many children as the population is large; the last population is ringed."""
    optimizer = cast(Genetic, course.study.optimizer)
    last = math.ceil(len(course.trials) / optimizer.size) - 1
    colours = [viridis(n // optimizer.size / last) for n in range(len(course.trials))]
    alive = [
        circle(*at, 8, INK, 1.2) for at in frame.places(course.places[each.number] for each in optimizer.population)
    ]
    legend = [Key(dot(0, 0, viridis(g / last)), 12, "generation 0" if g == 0 else str(g)) for g in range(last + 1)]
    return Layers(colours, [*legend, Key(circle(0, 0, 7, INK, 1.2), 16, "last population")], front=alive)


def partitioned(course: Course, frame: Frame) -> Layers:
    """The leaves of the tree by depth, and each point by that of the first cell around it."""
    optimizer = cast(Partitioned, course.study.optimizer)
    tree = optimizer.tree
    assert tree is not None
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
    """As `partitioned`, for DIRECT, which cuts the cells of an iteration when it goes on to the next."""
    assert not course.study.optimizer.finished
    return partitioned(course, frame)


def decomposed(course: Course, frame: Frame) -> Layers:
    """FDA's regions by level."""
    styles = [(INK, 1.2), (BLUE, 1.6), (VERMILLION, 1.6)]
    regions = cast(FDA, course.study.optimizer).regions
    behind = [
        circle(*at, region.r * SIDE, *styles[region.level])
        for region, at in zip(regions, frame.places(unscaled(region.c) for region in regions), strict=True)
    ]
    levels = sorted({region.level for region in regions})
    legend = [Key(circle(0, 0, 7, *styles[level]), 16, f"level {level}") for level in levels]
    return Layers(by_order(course), [order_key(), *legend], behind)


# ----- a Gaussian process in one dimension


def process() -> str:
    """The process after a few evaluations of `bo`, what it takes for likely, and where it evaluates next."""
    function, budget = SYNTHETIC["sine-root"], 6
    study = Study(function.space, function, "bo", seed=SEED, options={"n_init": 5}).run(budget)
    optimizer = cast(GPBO, study.optimizer)
    u = np.linspace(0, 1, 201)
    x = LOW + (HIGH - LOW) * u
    truth = [function({"x1": each}) for each in x.tolist()]
    with one_blas_thread():
        surrogate = Surrogate(function.space, *optimizer.history, optimizer.errors)
        mean, std = surrogate.posterior(u[:, None])
        log_ei = acquisition(surrogate)(u[:, None])
    improvement = np.exp(log_ei - log_ei.max())
    (following,) = optimizer.ask(1)
    next_x = float(following.config["x1"])
    tried = [(float(trial.config["x1"]), trial.score) for trial in study.trials]
    upper = Frame(LEFT, TOP, SIDE, 300, Axis(LOW, HIGH), Axis(0, 5))
    lower = Frame(LEFT, TOP + 300 + GAP, SIDE, STRIP, Axis(LOW, HIGH), Axis(0, 1))
    band = [*zip(x, mean - 1.96 * std, strict=True), *zip(x[::-1], (mean + 1.96 * std)[::-1], strict=True)]
    edge = " ".join(f"{a},{b}" for a, b in upper.places(band))
    legend = [
        Key(stroke(-9, 0, 9, 0, INK, 1.6, "5 4"), 20, "function"),
        Key(stroke(-9, 0, 9, 0, BLUE, 2), 20, "posterior mean"),
        Key(box(BLUE, 0.2), 14, "95 % interval"),
        Key(dot(0, 0, "white"), 12, "evaluated"),
        Key(stroke(0, -7, 0, 7, VERMILLION, 2), 8, "evaluated next"),
    ]
    at = upper.x(next_x)
    lines = [
        text(10, 22, "A Gaussian process and its acquisition function", 'font-size="15" font-weight="bold"'),
        text(10, 41, f"sin(x)² + √(x + 5) after {budget} evaluations of bo", f'fill="{FAINT}"'),
        *keyed(legend, WIDTH),
        *upper.axes("x"),
        upper.upright("f"),
        f'<polygon points="{edge}" fill="{BLUE}" fill-opacity="0.2"/>',
        stroke(at, TOP, at, upper.bottom, VERMILLION, 1.5),
        upper.line(zip(x, truth, strict=True), f'stroke="{INK}" stroke-width="1.6" stroke-dasharray="5 4"'),
        upper.line(zip(x, mean, strict=True), f'stroke="{BLUE}" stroke-width="2"'),
        *(dot(*each, "white", 5) for each in upper.places(tried)),
        *lower.axes("x"),
        lower.upright("EI"),
        lower.line(zip(x, improvement, strict=True), f'stroke="{ORANGE}" stroke-width="2"'),
        stroke(at, lower.top, at, lower.bottom, VERMILLION, 1.5),
        text(LEFT + SIDE, lower.top - 6, "expected improvement, of its maximum", 'text-anchor="end" font-size="11"'),
    ]
    return sheet(WIDTH, TOP + 300 + GAP + STRIP + 50, lines)


# ----- marks


def shaded(frame: Frame) -> Iterator[str]:
    """The function: the smaller, the darker."""
    for k, level in enumerate(LEVELS):
        share = k / (len(LEVELS) - 1)
        grey = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in ((238, 150), (240, 165), (243, 180)))
        yield f'<path d="{area(frame, level)}" fill="{grey}" fill-rule="evenodd"/>'


def lined(frame: Frame) -> Iterator[str]:
    for level in LEVELS:
        yield f'<path d="{area(frame, level)}" fill="none" stroke="{INK}" stroke-opacity="0.55" stroke-width="0.7"/>'


def area(frame: Frame, level: float) -> str:
    """Where the function is at most a level, as a path."""
    axis = np.linspace(LOW, HIGH, LATTICE)
    lattice = np.array([[PLANE.loss((x1, x2)) for x2 in axis.tolist()] for x1 in axis.tolist()])
    step = (HIGH - LOW) / (LATTICE - 1)
    found = []
    for outline in outlines(lattice, level):
        places = frame.places((LOW + step * i, LOW + step * j) for i, j in outline)
        found.append("M" + " ".join(f"{x:g},{y:g}" for x, y in places) + "Z")
    return "".join(found)


def viridis(share: float) -> str:
    """A colour from dark (0) to light (1)."""
    at = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    k = min(int(at), len(VIRIDIS) - 2)
    low, high = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in VIRIDIS[k : k + 2])
    return "#" + "".join(f"{round(a + (at - k) * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def by_order(course: Course) -> list[str]:
    n = len(course.trials)
    return [viridis(i / (n - 1)) for i in range(n)]


def dot(x: float, y: float, colour: str, r: float = 4.5) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{colour}" stroke="{INK}" stroke-width="0.8"/>'


def ring(x: float, y: float, colour: str, r: float = 4.5) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r - 0.5:g}" fill="white" stroke="{colour}" stroke-width="1.8"/>'


def circle(x: float, y: float, r: float, colour: str, width: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def star(x: float, y: float) -> str:
    corners = [(r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)) for k, r in enumerate((8.5, 3.6) * 5)]
    places = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)
    return f'<polygon points="{places}" fill="{VERMILLION}" stroke="white" stroke-width="1"/>'


def plus(x: float, y: float) -> str:
    return f'<path d="M{x - 5:g},{y:g}h10M{x:g},{y - 5:g}v10" stroke="{INK}" stroke-width="1.4"/>'


def cross(x: float, y: float) -> str:
    return f'<path d="M{x - 3:g},{y - 3:g}l6,6m0,-6l-6,6" stroke="{VERMILLION}" stroke-width="1.6" fill="none"/>'


def box(colour: str, opacity: float = 1) -> str:
    faint = "" if opacity == 1 else f' fill-opacity="{opacity:g}"'
    return f'<rect x="-6" y="-6" width="12" height="12" fill="{colour}"{faint}/>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.2, dash: str = "") -> str:
    return f'<path d="M{x1:g},{y1:g}L{x2:g},{y2:g}" fill="none" {path(colour, width, dash)}/>'


def path(colour: str, width: float, dash: str = "") -> str:
    broken = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{colour}" stroke-width="{width:g}"{broken}'


def order_key() -> Key:
    dots = "".join(dot(7 * k - 14, 0, viridis(k / 4), 4) for k in range(5))
    return Key(dots, 40, "first to last")


# ----- all of them

SCENES: dict[str, Scene] = {
    "grid": Scene("Grid", "grid", 25, ordered, {"points": 5}),
    "random": Scene("Random search", "random", 25, ordered),
    "lhs": Scene("Latin hypercube", "lhs", 25, stratified, {"size": 25}),
    "sobol": Scene("Sobol points", "sobol", 32, ordered),
    "annealing": Scene(
        "Simulated annealing", "annealing", 50, annealed, {"horizon": 45}, look=lambda each: each.current.number
    ),
    "ils": Scene("Iterated local search", "ils", 70, climbed, look=lambda each: each.walk()[1].number),
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
    """Draws all pictures into a folder; raises UserError where it cannot be written."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in PICTURES.items():
            (path := folder / f"{name}.svg").write_text(draw(), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    return written
