"""Look at a cohort in a browser: a server for this machine alone, its pages, and the verdicts that people give."""
