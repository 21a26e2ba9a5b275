"""What a study found, from its record only: as text, a page, Markdown, figures and data; and studies side by side."""
