"""`partune bench packing`: train and score the same trials together in packs and one by one, and compare the costs."""
