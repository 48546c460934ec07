"""Hand-over to annotators, collection of their labels, and the state of a project."""
