"""Is it better: who won a study, its comparison with base and defaults, and that of algorithms over repeats."""
