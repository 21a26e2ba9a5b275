"""Choose a study's winner, test it against the base model and the defaults, and compare algorithms over repeats."""
