"""Reports as HTML pages: one file that needs nothing else."""
