"""The gallery's colours."""

from partune.bench.marks import viridis


def test_colours_go_from_dark_to_light() -> None:
    assert (viridis(0), viridis(1)) == ("#440154", "#fde725")
    light = [
        sum(int(viridis(k / 20)[i : i + 2], 16) * w for i, w in ((1, 0.3), (3, 0.59), (5, 0.11))) for k in range(21)
    ]
    assert light == sorted(light)
