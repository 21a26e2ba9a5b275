"""Repeat the original study of 2025 with one command: its protocol, the calibration of epochs, runs and results."""
