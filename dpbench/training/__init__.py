"""How a method is trained: the driver, the epoch, the runner, and what a run leaves behind."""
