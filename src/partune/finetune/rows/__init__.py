"""Rows of training data: read files and data sets, infer the format from the columns, and bring rows to one form."""
