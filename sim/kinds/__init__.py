"""The kinds of scenario, and what is the same for all of them: loading, running, the schema."""
