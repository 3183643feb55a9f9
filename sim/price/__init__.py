"""What a step takes and what fits: arithmetic over counts and a device's profile; no clock, no chance."""
