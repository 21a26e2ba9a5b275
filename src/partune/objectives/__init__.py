"""Objectives: the black-box functions that turn a configuration into an observation, such as a fine-tuning."""
