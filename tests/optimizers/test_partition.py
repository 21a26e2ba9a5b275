from fractions import Fraction
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.optimizers.partition import Cell, Tree
from partune.space import Choice, Float, Int, Space

BOX = Space(x=Float(0, 1), y=Float(0, 1), z=Float(0, 1))


def grow(tree: Tree, choices: list[int]) -> None:
    """Splits one leaf after another, each picked by a number."""
    for choice in choices:
        leaves = [leaf for depth in range(tree.depth + 1) for leaf in tree.splittable(depth)]
        if leaves:
            tree.split(leaves[choice % len(leaves)])


def volume(cell: Cell) -> Fraction:
    return prod((Fraction(1, cell.base**level) for level in cell.levels), start=Fraction(1))


@given(base=st.integers(2, 7), choices=st.lists(st.integers(0, 10**6), max_size=30))
def test_the_leaves_cover_the_cube_once(base: int, choices: list[int]) -> None:
    tree = Tree(BOX, base)
    grow(tree, choices)
    leaves = [leaf for row in tree.leaves for leaf in row]
    assert sum(map(volume, leaves)) == 1
    for leaf in leaves:
        assert all(low < u < high for low, u, high in zip(leaf.lower, leaf.point, leaf.upper, strict=True))
    points = {leaf.point for leaf in leaves}
    assert len(points) == len(leaves)


@given(base=st.sampled_from([3, 5, 7]), choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_the_middle_child_is_its_parents_point_and_no_other_is(base: int, choices: list[int]) -> None:
    tree = Tree(BOX, base)
    grow(tree, choices)
    leaf = tree.leaves[tree.depth][0]
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
        axes.append(leaf.axis)
        leaf = tree.split(leaf)[2]
    assert axes == [0, 1, 2, 0, 1, 2, 0]


def test_only_sides_with_two_values_are_cut() -> None:
    tree = Tree(Space(a=Choice(["only"]), b=Int(1, 3), c=Float(0, 1)))
    assert tree.root.axis == 1
    one = tree.split(tree.root)[0]
    assert (one.levels, one.axis) == ((0, 1, 0), 2)


def test_an_inactive_side_is_not_cut() -> None:
    tree = Tree(Space(kind=Choice(["a", "b", "c"]), x=Float(0, 1, when={"kind": "a"})))
    a, b, c = tree.split(tree.root)
    assert (a.axis, b.axis, c.axis) == (1, None, None)
    assert tree.splittable(1) == [a]
    with pytest.raises(ValueError, match="no side"):
        tree.split(b)


def test_a_border_between_known_values_is_not_cut_for_ever() -> None:
    known = {(0.25,), (0.75,)}
    space = Space(kind=Choice(["a", "b"]))
    tree = Tree(space, known=lambda point: point in known)
    assert tree.root.inside == ((0.25,), (0.75,))
    assert tree.shallowest is None
    known.discard((0.25,))
    assert Tree(space, known=lambda point: point in known).shallowest == 0


def test_the_best_leaf_of_a_depth_is_the_oldest_among_equals() -> None:
    tree = Tree(BOX)
    children = tree.split(tree.root)
    for child, score in zip(children, [1.0, 2.0, 2.0], strict=True):
        child.score = score
    assert tree.best(1) is children[1]
    assert tree.best(0) is None
