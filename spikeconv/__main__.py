"""`python -m spikeconv`, as launchers of several processes call it."""

from spikeconv.cli.app import main

if __name__ == "__main__":
    main()
