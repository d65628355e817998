"""The operator as a real process against a real API server, killed and cut off at every call of a job's life."""
