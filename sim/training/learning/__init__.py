"""Small problems that are really learnt, in the order and with the staleness that a run produced."""
