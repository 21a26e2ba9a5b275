"""Draw the gallery's picture of a Gaussian process in one dimension, with the expected improvement below it."""

from __future__ import annotations

from typing import cast

import numpy as np

from partune.bench.marks import FAINT, GAP, HIGH, INK, LEFT, LOW, SIDE, STRIP, TOP, WIDTH, box, dot, stroke
from partune.objectives.synthetic import SYNTHETIC
from partune.optimizers.acquisition import acquisition
from partune.optimizers.bayes import GPBO
from partune.optimizers.surrogate import Surrogate
from partune.report.figures import BLUE, ORANGE, VERMILLION
from partune.report.svg.frame import Axis, Frame, Key, keyed, sheet, text
from partune.runtime.threads import one_blas_thread
from partune.study import Study


def process() -> str:
    """Return the picture of the Gaussian process after a few evaluations of `bo`, with the point to evaluate next."""
    function, budget = SYNTHETIC["sine-root"], 6
    study = Study(function.space, function, "bo", seed=0, options={"n_init": 5}).run(budget)
    optimizer = cast(GPBO, study.optimizer)
    u = np.linspace(0, 1, 201)
    x = LOW + (HIGH - LOW) * u
    truth = [function({"x1": value}) for value in x.tolist()]
    with one_blas_thread():
        surrogate = Surrogate(function.space, *optimizer.history, optimizer.errors)
        mean, std = surrogate.posterior(u[:, None])
        log_ei = acquisition(surrogate)(u[:, None])
    improvement = np.exp(log_ei - log_ei.max())
    (proposal,) = optimizer.ask(1)
    next_x = float(proposal.config["x1"])
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
        *(dot(*point, "white", 5) for point in upper.places(tried)),
        *lower.axes("x"),
        lower.upright("EI"),
        lower.line(zip(x, improvement, strict=True), f'stroke="{ORANGE}" stroke-width="2"'),
        stroke(at, lower.top, at, lower.bottom, VERMILLION, 1.5),
        text(LEFT + SIDE, lower.top - 6, "expected improvement / its maximum", 'text-anchor="end" font-size="11"'),
    ]
    return sheet(WIDTH, TOP + 300 + GAP + STRIP + 50, lines)
