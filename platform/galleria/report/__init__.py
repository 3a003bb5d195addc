"""Reports of runs for people: progress, tables and pages."""
