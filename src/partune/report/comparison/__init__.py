"""Compare studies side by side, as data, tables, a picture and files."""
