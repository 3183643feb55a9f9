"""Where an operator's time comes from: the laws of a device, or a table measured on it."""
