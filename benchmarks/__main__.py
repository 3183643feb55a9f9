"""``python -m benchmarks``: the speed tables."""

from benchmarks.speed import main

main()
