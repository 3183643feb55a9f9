"""From runs to an answer: metrics, statistics, verdicts, warnings, comparisons. Shared by all kinds."""
