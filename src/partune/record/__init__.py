"""What a study keeps: its trials in a journal or a database, and the files beside them."""
