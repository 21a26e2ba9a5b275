"""What accompanies a study's adapter: its model card, and files that train it again with other tools."""
