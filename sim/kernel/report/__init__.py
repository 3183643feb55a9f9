"""The report of a kernel scenario: its page and its pictures."""
