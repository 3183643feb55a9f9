"""From our own measurements (``calibrate/data/PROFILE/*.csv``) to a profile: ``python -m calibrate fit``."""
