"""What packs gain: the same trials by packs and by the ways that people have without them, side by side."""
