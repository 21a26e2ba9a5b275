"""`partune bench scaling`: studies of many workers on a virtual clock."""
