"""Work on many processors: tasks on any ``concurrent.futures`` executor, and what all workers share."""
