"""Side by side, in one run: packs and the ways to do without them; optimisers and those of other libraries."""
