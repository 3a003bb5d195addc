"""Other vector stores and services, each in a process and an environment of its own."""
