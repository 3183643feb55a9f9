"""When every update of a run happens, without an event where nothing is decided."""
