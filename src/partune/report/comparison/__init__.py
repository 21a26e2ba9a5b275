"""Studies side by side: their data, tables, picture and files."""
