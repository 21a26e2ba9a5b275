"""The benchmarks of `partune bench` and the pictures of `partune gallery`."""
