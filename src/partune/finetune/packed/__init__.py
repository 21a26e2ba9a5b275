"""Many trials on one resident base: their adapters as batched products, trained and scored together."""
