"""Several processes and threads: collectives, and how many threads torch takes."""
