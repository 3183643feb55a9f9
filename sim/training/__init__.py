"""Data-parallel training: workers, their exchange, and what a step costs."""
