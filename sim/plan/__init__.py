"""Many runs at once: sweeps over a grid, and where they run."""
