"""Predictions held against measurements of real systems."""
