"""Scores of models on the harness's tasks: items, requests, answers, and their aggregation."""
