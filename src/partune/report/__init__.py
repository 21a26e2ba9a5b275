"""Report on a study from its record only, as text, a page, Markdown, figures and data; compare several studies."""
