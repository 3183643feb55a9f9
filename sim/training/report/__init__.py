"""The report of a training scenario."""
