"""What is run: grids and their workers, controls, subsets, tuning, and the runs of other machines."""
