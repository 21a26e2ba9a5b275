"""The original study as one command: its protocol, the calibration of its epochs, its runs and its results."""
