"""Objectives: what answers a configuration with an observation."""
