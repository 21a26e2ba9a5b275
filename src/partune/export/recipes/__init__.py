"""Write recipes: files with which other tools repeat the training of a study's trial."""
