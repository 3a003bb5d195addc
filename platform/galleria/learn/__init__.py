"""Learning without Ray: tasks, families, recipes, the loop, bundles, losses and metrics."""
