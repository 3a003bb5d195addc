"""Other stores of vectors, each in a process and an environment of its own."""
