"""OrderDP beyond its method file: its theory, tested, and its Figure 4."""
