"""How fast triochan is beside its peers; `python tests/benchmarks/run.py --help` explains."""
