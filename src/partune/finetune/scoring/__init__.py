"""Score models on the tasks of lm-evaluation-harness: load tasks, tokenise requests, aggregate answers."""
