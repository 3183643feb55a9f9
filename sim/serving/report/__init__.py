"""The report of a serving scenario."""
