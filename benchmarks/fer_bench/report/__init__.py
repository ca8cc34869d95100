"""The page that a person reads: results.html, and its plots as files."""
