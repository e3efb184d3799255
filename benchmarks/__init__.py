"""What things cost, beside what a project would use instead: `tox run -e benchmarks`."""
