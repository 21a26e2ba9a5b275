"""LitGPT through its command line: our settings as its arguments, its steps as processes."""
