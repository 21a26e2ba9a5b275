from fractions import Fraction
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.optimizers.partition import Cell, Tree
from partune.space import Choice, Float, Int, Space

BOX = Space(x=Float(0, 1), y=Float(0, 1), z=Float(0, 1))


def grow(tree: Tree, choices: list[int]) -> list[Cell]:
    """Splits one leaf after another, each picked by a number; the leaves."""
    leaves = [tree.root]
    for choice in choices:
        leaf = leaves.pop(choice % len(leaves))
        leaves += tree.split(leaf) if leaf.sides else [leaf]
    return leaves


def scored(tree: Tree, cells: list[Cell], scores: list[float]) -> None:
    for cell, score in zip(cells, scores, strict=True):
        cell.score = score
    tree.add(cells)


def volume(cell: Cell) -> Fraction:
    return prod((Fraction(1, cell.base**level) for level in cell.levels), start=Fraction(1))


@given(base=st.integers(2, 7), choices=st.lists(st.integers(0, 10**6), max_size=30))
def test_the_leaves_cover_the_cube_once(base: int, choices: list[int]) -> None:
    leaves = grow(Tree(BOX, base), choices)
    assert sum(map(volume, leaves)) == 1
    for leaf in leaves:
        assert all(low < u < high for low, u, high in zip(leaf.lower, leaf.point, leaf.upper, strict=True))
    points = {leaf.point for leaf in leaves}
    assert len(points) == len(leaves)


@given(base=st.sampled_from([3, 5, 7]), choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_the_middle_child_is_its_parents_point_and_no_other_is(base: int, choices: list[int]) -> None:
    tree = Tree(BOX, base)
    leaf = max(grow(tree, choices), key=lambda cell: cell.depth)
    children = tree.split(leaf)
    assert [child.point is leaf.point for child in children] == [part == base // 2 for part in range(base)]
    middle = children[base // 2]
    exact = [Fraction(2 * i + 1, 2 * base**level) for level, i in zip(middle.levels, middle.indices, strict=True)]
    assert middle.point == tuple(map(float, exact))


@pytest.mark.parametrize("base", [2, 4])
def test_an_even_split_has_no_middle_child(base: int) -> None:
    tree = Tree(BOX, base)
    assert all(child.point != tree.root.point for child in tree.split(tree.root))


def test_centres_are_exact_however_deep() -> None:
    tree = Tree(Space(x=Float(0, 1)))
    leaf = tree.root
    for _ in range(20):
        leaf = tree.split(leaf)[0]
    assert leaf.point == (float(Fraction(1, 2 * 3**20)),)


def test_the_longest_side_is_cut_the_first_axis_among_equals() -> None:
    tree = Tree(BOX)
    leaf, axes = tree.root, []
    for _ in range(7):
        axes.append(leaf.sides[0])
        leaf = tree.split(leaf)[2]
    assert axes == [0, 1, 2, 0, 1, 2, 0]


def test_only_sides_with_two_values_are_cut() -> None:
    tree = Tree(Space(a=Choice(["only"]), b=Int(1, 3), c=Float(0, 1)))
    assert tree.root.sides[0] == 1
    one = tree.split(tree.root)[0]
    assert (one.levels, one.sides) == ((0, 1, 0), (2,))


def test_an_inactive_side_is_not_cut() -> None:
    tree = Tree(Space(kind=Choice(["a", "b", "c"]), x=Float(0, 1, when={"kind": "a"})))
    a, b, c = tree.split(tree.root)
    assert (a.sides, b.sides, c.sides) == ((1,), (), ())
    scored(tree, [a, b, c], [0.0, 1.0, 2.0])
    assert tree.best(1) is a
    with pytest.raises(ValueError, match=r"can be split along axes \(\)"):
        tree.split(b)


def test_a_border_between_known_values_is_not_cut_for_ever() -> None:
    known = {(0.25,): 1.0, (0.75,): 2.0}
    space = Space(kind=Choice(["a", "b"]))
    tree = Tree(space, known=known.get)
    assert tree.root.inside == ((0.25,), (0.75,))
    scored(tree, [tree.root], [0.0])
    assert tree.shallowest is None
    del known[(0.25,)]
    tree = Tree(space, known=known.get)
    scored(tree, [tree.root], [0.0])
    assert tree.shallowest == 0


def test_the_best_leaf_of_a_depth_is_the_oldest_among_equals() -> None:
    tree = Tree(BOX)
    children = tree.split(tree.root)
    scored(tree, children, [1.0, 2.0, 2.0])
    assert tree.best(1) is children[1]
    assert tree.best(0) is None


@given(st.permutations(range(9)), st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_the_order_in_which_scores_come_changes_nothing(order: list[int], values: list[int]) -> None:
    """A cell without a score is no candidate; in the end the cells leave in the order of score and creation."""
    known: dict[tuple[float, ...], float] = {}
    tree = Tree(BOX, 9, known=known.get)
    children = tree.split(tree.root)
    tree.add(children)
    for done, part in enumerate(order, start=1):
        known[children[part].point] = float(values[part])
        assert (tree.best(1) is None) == (done == 1)
        tree.collect()
        assert tree.best(1) is min((children[i] for i in order[:done]), key=lambda cell: (-cell.score, cell.age))
    left = []
    while tree.best(1) is not None:
        left.append(tree.pop(1))
    assert left == sorted(children, key=lambda cell: (-cell.score, cell.age))


def test_a_cell_whose_split_is_not_worth_while_stays_for_later() -> None:
    refused: list[Cell] = []
    tree = Tree(BOX, may_split=lambda children: children[0] not in refused)
    children = tree.split(tree.root)
    scored(tree, children, [3.0, 2.0, 1.0])
    refused += [child for cell in children[:2] for child in tree._children(cell)]
    assert tree.best(1) is children[2]
    refused.clear()
    assert tree.best(1) is children[0]
