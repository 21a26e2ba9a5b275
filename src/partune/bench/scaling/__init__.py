"""`partune bench scaling`: run studies with many simulated workers on a virtual clock."""
