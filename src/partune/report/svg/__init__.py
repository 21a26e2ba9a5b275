"""Pictures as SVG: axes, line charts side by side, outlines of areas."""
