"""The benchmarks of `partune bench` (packs, optimisers, workers, crashes) and the pictures of `partune gallery`."""
