"""Reports: records in; HTML, Markdown, CSV, JSON and terminal tables out."""
