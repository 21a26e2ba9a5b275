"""`partune bench packing`: packs and the ways of doing without them, on the same trials in one run."""
