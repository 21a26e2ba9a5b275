"""Test whether one model is better than another, from the answers of both to the same items."""
