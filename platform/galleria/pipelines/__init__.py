"""Ray Data and Ray Train wiring: each module carries one step of a run over a cluster."""
