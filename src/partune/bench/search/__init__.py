"""`partune bench search`: optimisers side by side, on the same problems with the same budget, over many seeds."""
