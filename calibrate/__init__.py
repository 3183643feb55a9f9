"""From measurements to the constants of hardware profiles. Runs from a checkout; the wheel leaves it out."""
