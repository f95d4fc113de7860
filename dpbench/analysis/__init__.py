"""What the runs say: statistics, verdicts, the table of a grid, and who uses which samples."""
