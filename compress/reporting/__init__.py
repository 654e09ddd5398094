"""Reports: turn run records into HTML, Markdown, CSV, JSON and terminal tables."""
