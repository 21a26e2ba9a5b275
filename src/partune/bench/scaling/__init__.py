"""`partune bench scaling`: studies with many workers, on a virtual clock."""
