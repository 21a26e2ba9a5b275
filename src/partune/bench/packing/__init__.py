"""`partune bench packing`: packs, and the ways to do without them, on the same trials in one run."""
