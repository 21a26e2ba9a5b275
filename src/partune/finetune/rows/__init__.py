"""Rows of training data: read files and data sets, tell the format by the columns, and bring rows to one form."""
