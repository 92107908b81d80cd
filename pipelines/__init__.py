"""The graph, its configuration and the command line."""
