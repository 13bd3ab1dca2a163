"""`python -m vqwave`, which is also what `accelerate launch -m vqwave` runs."""

from vqwave.cli import main

if __name__ == "__main__":
    main()
