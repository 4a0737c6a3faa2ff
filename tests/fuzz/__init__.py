"""Coverage-guided fuzzers: ``python tests/fuzz/run.py`` runs them all in turn, each alone takes libFuzzer's options."""
