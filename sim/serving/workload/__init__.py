"""Who asks for what, when: requests drawn from distributions or read from a trace, in order of arrival."""
