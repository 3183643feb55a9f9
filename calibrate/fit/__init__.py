"""``python -m calibrate fit``: from what ``measure`` wrote (``calibrate/data/PROFILE``) to a profile."""
