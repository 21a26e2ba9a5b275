"""The published pseudo-code of SOO, BaMSOO, SequOOL and FDA, line by line; slow, plain, independent of the package.

What the papers leave open is settled as in the package: cells are cut along their longest side relative to the box, the
first among equals; the argmax is the oldest leaf among equals; a child at a point that was evaluated before takes its
value (with K odd, the middle child's point is its parent's). Coordinates are fractions, hence exact.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import inf, log, pi, sqrt

Box = list[tuple[Fraction, Fraction]]
Function = Callable[[list[float]], float]
Posterior = Callable[[list[list[float]], list[float], list[float]], tuple[float, float]]
HMax = Callable[[int], float]


def centre(box: Box) -> tuple[Fraction, ...]:
    return tuple((low + high) / 2 for low, high in box)


def cut(box: Box, whole: Box, K: int) -> list[Box]:
    widths = [(high - low) / (top - bottom) for (low, high), (bottom, top) in zip(box, whole, strict=True)]
    axis = widths.index(max(widths))
    low, high = box[axis]
    part = (high - low) / K
    return [[*box[:axis], (low + k * part, low + (k + 1) * part), *box[axis + 1 :]] for k in range(K)]


def floats(x: Sequence[Fraction]) -> list[float]:
    return [float(x_i) for x_i in x]


def soo(f: Function, bounds: list[tuple[int, int]], n: int, h_max: HMax, strict: bool, K: int = 3) -> list[list[float]]:
    """Munos 2011, section 4; the n points that were evaluated, in order. h_max(t): of the expansions t = 1, 2, ..."""
    X = [(Fraction(low), Fraction(high)) for low, high in bounds]
    value: dict[tuple[Fraction, ...], float] = {}

    def evaluate(box: Box) -> float:
        x = centre(box)
        if x not in value:
            value[x] = f(floats(x))
        return value[x]

    # Initialization: T_1 = {(0, 0)} (root node). Set t = 1.
    leaves: dict[int, list[tuple[Box, float]]] = {0: [(X, evaluate(X))]}
    t = 1
    # while True do
    while True:
        # Set v_max = -inf.
        v_max = -inf
        # for h = 0 to min(depth(T_t), h_max(t)) do
        for h in range(int(min(max(leaves), h_max(t))) + 1):
            # Among all leaves (h, j) of depth h, select (h, i) in argmax f(x_{h, j}).
            if not leaves[h]:
                continue
            best = max(value for _, value in leaves[h])
            i = [value for _, value in leaves[h]].index(best)
            # if f(x_{h, i}) >= v_max then
            if best > v_max or (best == v_max and not strict):
                # Expand this node: add to T_t the K children.
                box, _ = leaves[h].pop(i)
                for child in cut(box, X, K):
                    leaves.setdefault(h + 1, []).append((child, evaluate(child)))
                    if len(value) == n:
                        return [floats(x) for x in value]
                # Set v_max = f(x_{h, i}). Set t = t + 1.
                v_max = best
                t = t + 1


def bamsoo(
    f: Function,
    posterior: Posterior,
    d: int,
    n: int,
    h_max: HMax,
    strict: bool = False,
    eta: float = 0.5,
    K: int = 3,
) -> tuple[list[list[float]], list[tuple[list[float], float]]]:
    """Wang et al. 2014, on [0, 1]^d; the n points evaluated, and those inferred with their scores.

    posterior(X, y, x): mean and standard deviation of f at x, given the data.
    """
    X = [(Fraction(0), Fraction(1))] * d
    inferred: list[tuple[list[float], float]] = []
    # Set g_{0,0} = f(x_{0,0}), f+ = g_{0,0}; initialise the tree T_1 = {(0, 0)}; t = 1, n = 1, N = 1, D_t = {...}.
    g = f(floats(centre(X)))
    f_plus = g
    leaves: dict[int, list[tuple[Box, float]]] = {0: [(X, g)]}
    expansions, N = 1, 1
    D = {centre(X): g}
    # while true do
    while True:
        # Set v_max = -inf.
        v_max = -inf
        # for h = 0 to min{depth(T_n), h_max(n)} do
        for h in range(int(min(max(leaves), h_max(expansions))) + 1):
            # Select (h, j) = argmax of g over the leaves of depth h.
            if not leaves[h]:
                continue
            best = max(g for _, g in leaves[h])
            j = [g for _, g in leaves[h]].index(best)
            # if g(x_{h,j}) >= v_max then
            if best > v_max or (best == v_max and not strict):
                box, _ = leaves[h].pop(j)
                # for i = 0 to k - 1 do
                for child in cut(box, X, K):
                    x = centre(child)
                    # Set N = N + 1.
                    N = N + 1
                    if x in D:
                        g = D[x]
                    else:
                        mu, sigma = posterior([floats(p) for p in D], list(D.values()), floats(x))
                        B = sqrt(2 * log(pi**2 * N**2 / (6 * eta)))
                        # if U_N(x_{h+1,kj+i} | D_t) >= f+ then
                        if mu + B * sigma >= f_plus:
                            # Set g = f(x_{h+1,kj+i}); t = t + 1; D_t = {D_{t-1}, (x, g)}.
                            g = f(floats(x))
                            D[x] = g
                        else:
                            # Set g = L_N(x_{h+1,kj+i} | D_t).
                            g = mu - B * sigma
                            inferred.append((floats(x), g))
                    # if g > f+ then f+ = g
                    f_plus = max(f_plus, g)
                    # Add the children of (h, j) to T_n.
                    leaves.setdefault(h + 1, []).append((child, g))
                    if len(D) == n:
                        return [floats(p) for p in D], inferred
                # Set v_max = g(x_{h,j}); n = n + 1.
                v_max = best
                expansions = expansions + 1


def sequool(f: Function, d: int, openings: int) -> list[list[float]]:
    """Bartlett et al. 2019, on [0, 1]^d with K = 3; the points evaluated with a budget of n openings.

    The root is evaluated first, as its value is that of its middle child.
    """
    whole = [(Fraction(0), Fraction(1))] * d
    value: dict[tuple[Fraction, ...], float] = {}

    def evaluate(box: Box) -> float:
        return value.setdefault(centre(box), f(floats(centre(box))))

    evaluate(whole)
    n = openings
    # h_max = floor(n / log-bar(n)), log-bar(n) = sum_t 1/t
    h_max = int(n / sum(Fraction(1, t) for t in range(1, n + 1)))
    cells: dict[int, list[tuple[Box, float]]] = {h: [] for h in range(h_max + 2)}
    # Open P_{0,1}.
    cells[1] = [(child, evaluate(child)) for child in cut(whole, whole, 3)]
    # For h = 1 to h_max: open floor(h_max / h) cells P_{h,i} of depth h with largest values f_{h,j}.
    for h in range(1, h_max + 1):
        for box, _ in sorted(cells[h], key=lambda cell: -cell[1])[: h_max // h]:
            cells[h + 1] += [(child, evaluate(child)) for child in cut(box, whole, 3)]
    return [floats(x) for x in value]


def fda(f: Function, d: int, n: int, levels: int, least: float) -> list[list[float]]:
    """Nakib et al. 2017 with hyperspheres, on [0, 1]^d; the first n points asked for, known ones again."""
    asked: list[list[float]] = []
    best_x, best_f = [0.5] * d, -inf

    def evaluate(x: list[float]) -> float:
        asked.append(x)
        return f(x)

    def inside(u: float) -> float:
        return 0.0 if u < 0 else 1.0 if u > 1 else u

    spheres: list[tuple[int, float, list[float], float]] = [(0, 0.0, [0.5] * d, 0.5)]
    while spheres and len(asked) < n:
        # The deepest level first, in it the best quality.
        spheres.sort(key=lambda sphere: (-sphere[0], -sphere[1]))
        level, _, c, r = spheres.pop(0)
        part = r / (1 + sqrt(2))
        centres = [[u + sign * (r - part) * (i == j) for j, u in enumerate(c)] for sign in (1, -1) for i in range(d)]
        if level + 1 < levels:
            looks = []
            for centre_ in centres:
                step = 1.75 * part / sqrt(d)
                three = [centre_, [inside(u + step) for u in centre_], [inside(u - step) for u in centre_]]
                looks.append((centre_, [(s, evaluate(s)) for s in three]))
            for _, three_scored in looks:
                for s, value in three_scored:
                    if value > best_f:
                        best_x, best_f = s, value
            for centre_, three_scored in looks:
                quality = max(
                    (value - best_f) / sqrt(sum((a - b) ** 2 for a, b in zip(s, best_x, strict=True)))
                    if s != best_x
                    else 0
                    for s, value in three_scored
                )
                spheres.append((level + 1, quality, centre_, part))
            continue
        for x in centres:
            value, omega = evaluate(x), 1.75 * part
            while omega > least:
                before = value
                for i in range(d):
                    ends = [[inside(u + sign * omega * (i == j)) for j, u in enumerate(x)] for sign in (1, -1)]
                    scored = [(x, value)] + [(end, evaluate(end)) for end in ends]
                    x, value = max(scored, key=lambda pair: pair[1])
                if value > best_f:
                    best_x, best_f = x, value
                if value == before:
                    omega = omega / 2
    return asked[:n]
