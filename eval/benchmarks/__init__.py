"""The benchmarks, a file each; ``eval.benchmarks.catalogue`` lists them."""
