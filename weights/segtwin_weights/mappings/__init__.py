"""Names of parameters in other projects, and the hub's names for the same numbers."""
