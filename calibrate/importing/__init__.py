"""From measurements in other people's formats to a price table that a scenario can name."""
