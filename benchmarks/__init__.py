"""Side-by-side measurements. Each prints one JSON object: `python -m benchmarks.<name>`."""
