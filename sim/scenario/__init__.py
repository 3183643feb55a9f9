"""From YAML to frozen dataclasses: keys and bounds, strict reading, variants and overrides. Knows no kind."""
