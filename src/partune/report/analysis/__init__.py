"""What a report draws from a record beyond its numbers: importances, cuts through the surrogate, partitions."""
