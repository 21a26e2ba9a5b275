"""Draw SVG pictures: axes, line charts side by side, and outlines of areas."""
