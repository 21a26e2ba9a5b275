"""Packs: many trials trained and scored together on one base model, with their adapters as batched products."""
