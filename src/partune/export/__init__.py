"""Export an adapter, or the model with it merged in, with a model card and recipes for other tools."""
