"""Store a study's trials in a journal or a database, and their files in the study's directory."""
