"""Reports: one plain dict becomes a verdict, text, JSON, markdown, JUnit, annotations, a page and pictures."""
