"""The command ``gpuyard``: verbs only. Each parses, calls, prints, and returns an exit code."""
