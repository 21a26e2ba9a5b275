"""Analyse a study's record for a report: importances, planes through the surrogate, and partitions of the space."""
