"""`partune bench search`: compare optimisers on the same problems, with the same budget, over many seeds."""
