"""Logged values: merged exactly over batches, stages, processes and a resume. A tool: it knows no run."""
