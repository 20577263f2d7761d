"""Per-item tables, comparisons, and results as Markdown, LaTeX and JSON."""
